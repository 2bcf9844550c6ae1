import hashlib
import sys

import numpy as np
import pytest

from instantid_jax.errors import InputError
from train.remote.store import Store

DATA = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def store(server):
    return Store("s3://faces/a/")


def test_files_come_back_whole_and_in_parts(store, tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    store.put(tmp_path / "x", "b/x")
    store.write("y", b"small")
    assert {name: file.size for name, file in store.files().items()} == {"b/x": len(DATA), "y": 5}
    assert store.read_range("b/x", 1000, 2000) == DATA[1000:2000]
    assert store.sha256("b/x") == hashlib.sha256(DATA).hexdigest()
    store.get("b/x", tmp_path / "z" / "x", len(DATA))
    assert (tmp_path / "z" / "x").read_bytes() == DATA
    store.remove(["y", "absent"])
    assert list(store.files("b")) == ["b/x"]
    assert Store("s3://faces/none").files() == {}


def test_a_replaced_file_has_another_version(store):
    store.write("y", b"small")
    before = store.files()["y"]
    store.write("y", b"other")
    assert store.files()["y"].size == before.size
    assert store.files()["y"].version != before.version


def test_cut_connections_are_repaired(store, server, tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    cut = server.proxy.cut
    server.proxy.cut_after(100_000, 10, 200_000)
    store.put(tmp_path / "x", "x")
    server.proxy.cut_after(100_000, 10, 200_000)
    store.get("x", tmp_path / "y", len(DATA))
    assert (tmp_path / "y").read_bytes() == DATA
    server.proxy.cut_after(50_000)
    assert store.read_range("x", 1, 200_000) == DATA[1:200_000]
    assert server.proxy.cut >= cut + 7


def test_restarted_server_is_found_again(store, server):
    store.write("y", b"small")
    server.stop()
    with pytest.raises(InputError, match=r"s3://faces/a/y cannot be reached in 6 tries"):
        store.read("y")
    server.start()
    assert store.read("y") == b"small"


def test_lasting_errors_are_one_line(server, monkeypatch):
    with pytest.raises(InputError, match="no such kind of address"):
        Store("ftps3://x/y")
    with pytest.raises(FileNotFoundError):
        Store("s3://faces").read("absent")
    assert Store("s3://no-such-bucket/x").files() == {}
    with pytest.raises(InputError, match="the bucket does not exist"):
        Store("s3://no-such-bucket/x").write("y", b"")
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(InputError, match=r"az://other/x needs a package.*adlfs"):
        Store("az://other/x")
