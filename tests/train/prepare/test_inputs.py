"""The input is split into shards, and their images are read."""

import gzip
import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from instantid_jax.errors import InputError
from tests.train.prepare import web
from train.prepare import inputs
from train.prepare.inputs import find_shards


def entries(source: Path) -> tuple[list[inputs.Entry], Counter[str]]:
    rejected: Counter[str] = Counter()
    return [e for shard in find_shards(source) for e in shard.entries(rejected)], rejected


def test_splits_a_folder_by_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "IMAGES_PER_SHARD", 2)
    for name in ("b/2.png", "a.jpg", "b/1.jpg", "notes.txt", ".trash/00000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a.txt").write_text(" größe\n", encoding="utf-8")
    (tmp_path / "b" / "1.json").write_text(json.dumps({"LICENSE": "CC0"}))
    assert [shard.names for shard in find_shards(tmp_path)] == [
        ("a.jpg", "b/1.jpg"),
        ("b/2.png",),
    ]
    found, rejected = entries(tmp_path)
    assert [(e.key, e.image, e.sidecars.caption, e.sidecars.notes) for e in found] == [
        ("a", b"a.jpg", "größe", {}),
        ("b/1", b"b/1.jpg", None, {"LICENSE": "CC0"}),
        ("b/2", b"b/2.png", None, {}),
    ]
    assert not rejected


@pytest.mark.parametrize("nested", [True, False])
def test_reads_parquet_images_as_bytes_or_structs(tmp_path, monkeypatch, nested):
    monkeypatch.setattr(inputs, "ROWS", 2)
    images = [{"bytes": b"one", "path": "1.jpg"}, {"bytes": b"two", "path": None}, None]
    if not nested:
        images = [each and each["bytes"] for each in images]
    rows = {"image": images, "caption": ["a", None, "c"], "LICENSE": ["CC0", "", None]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet")
    found, _ = entries(tmp_path)
    assert [(e.key, e.image, e.sidecars.caption) for e in found] == [
        ("0/00000000", b"one", "a"),
        ("0/00000001", b"two", None),
        # It is counted, and rejected later.
        ("0/00000002", b"", "c"),
    ]
    assert found[0].sidecars.notes["LICENSE"] == "CC0"


def test_damaged_parquet_file_does_not_end_the_run(tmp_path):
    parquet.write_table(pyarrow.table({"image": [b"x" * 100]}), tmp_path / "0.parquet")
    whole = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[:-20])
    found, rejected = entries(tmp_path)
    assert len(found) == 1 and rejected == {"unreadable parquet file": 1}


def test_counts_invalid_tars_but_not_empty_ones(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"")
    (tmp_path / "1.tar").write_bytes(b"<html>404</html>" * 100)
    with tarfile.open(tmp_path / "2.tar", "w"):
        pass
    assert entries(tmp_path) == ([], {"damaged tar": 2})


@pytest.fixture
def five(tmp_path) -> tuple[Path, list[int]]:
    """A tar of five images, and the offsets of their headers."""
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(5):
            web.put(tar, f"{i}.jpg", bytes([i]) * 700)
    with tarfile.open(path) as tar:
        return path, [member.offset for member in tar.getmembers()]


@pytest.mark.parametrize("damage", ["broken header", "cut between files"])
def test_detects_damage_that_tarfile_ignores(five, damage):
    """tarfile takes either for the end, so the preceding example may be incomplete."""
    path, headers = five
    data = bytearray(path.read_bytes())
    if damage == "broken header":
        data[headers[3] + 10 : headers[3] + 60] = b"\xff" * 50
    else:
        del data[headers[3] :]
    path.write_bytes(data)
    found, rejected = entries(path)
    assert [e.key for e in found] == ["0", "1"]
    assert rejected == {"truncated tar member": 1}


def test_reads_compressed_tars_and_detects_their_damage(five):
    path, _ = five
    whole = gzip.compress(path.read_bytes())
    (path.parent / "1.tar.gz").write_bytes(whole)
    (path.parent / "2.tgz").write_bytes(whole[: len(whole) // 2])
    assert [shard.name for shard in find_shards(path.parent)] == ["0.tar", "1.tar.gz", "2.tgz"]
    found, rejected = entries(path.parent)
    assert [e.key for e in found[:10]] == [str(i) for i in range(5)] * 2
    assert sum(rejected.values()) == 1


def test_reads_names_and_metadata_of_any_bytes(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        web.put(tar, "b\udcff.jpg", b"one")
        web.put(tar, "b\udcff.json", b"[" * 100_000)
    ((entry,), rejected) = entries(tmp_path)
    assert (entry.key, entry.sidecars.notes, dict(rejected)) == ("b\\xff", {}, {})


def test_counts_further_images_of_one_name(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "a.txt", "a.png", "a.txt", "b.txt"):
            web.put(tar, name, name.encode())
    found, rejected = entries(tmp_path)
    assert [(e.key, e.image) for e in found] == [("a", b"a.jpg")]
    assert rejected == {"duplicate name": 2, "no image": 1}


def test_file_system_errors_end_the_run(tmp_path):
    (tmp_path / "0.tar").touch()
    (tmp_path / "._0.tar").write_bytes(b"another system's")
    (tmp_path / "folder.tar").mkdir()
    (shard,) = find_shards(tmp_path)
    (tmp_path / "0.tar").unlink()
    with pytest.raises(InputError, match=r"0\.tar cannot be read: No such file"):
        list(shard.entries(Counter()))


def test_rejects_input_without_images(tmp_path):
    parquet.write_table(pyarrow.table({"URL": ["https://"]}), tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"0.parquet has the columns URL: expected an image"):
        find_shards(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no images: .*\.webp, \.tar or \.parquet"):
        find_shards(tmp_path / "empty")
    with pytest.raises(InputError, match=r"nowhere: expected a folder, a \.tar or a \.parquet"):
        find_shards(tmp_path / "nowhere")
