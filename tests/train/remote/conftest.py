import pytest

from tests.train.remote.server import serving
from train.remote import store


@pytest.fixture(scope="session")
def _server():
    with serving() as server:
        yield server


@pytest.fixture
def server(_server, monkeypatch):
    """An S3 server that is empty; tries follow each other at once."""
    for name in _server.names():
        _server.client.delete_object(Bucket="faces", Key=name)
    monkeypatch.setattr(store, "PAUSES", (0.01,) * 5)
    _server.proxy.cut_after()
    _server.proxy.requests.clear()
    yield _server
