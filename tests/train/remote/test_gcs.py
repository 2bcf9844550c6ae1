"""Google Cloud Storage, through an emulator on loopback."""

import socket

import pytest
from gcp_storage_emulator.server import create_server

from tests.train.data import drawn
from tests.train.data.test_record import assert_same
from train.data.reading import FaceDataset
from train.data.upload import upload
from train.remote.store import Store


@pytest.fixture
def bucket(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="faces")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # The emulator does not have the service that knows of hierarchical buckets.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    server.start()
    yield "gs://faces"
    server.stop()


def test_dataset_is_the_same_as_the_local_one(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local = FaceDataset(drawn.dataset(tmp_path / "data", [(64, 64)] * 5))
    upload(tmp_path / "data", f"{bucket}/data")
    remote = FaceDataset(f"{bucket}/data")
    assert remote.fingerprint == local.fingerprint
    for row in range(5):
        assert_same(remote[row], local[row])
    store = Store(f"{bucket}/data")
    before = store.files()
    store.remove(["SHA256SUMS", "absent"])
    assert store.files().keys() == before.keys() - {"SHA256SUMS"}
    with pytest.raises(FileNotFoundError):
        store.read("SHA256SUMS")
