"""Web datasets as they are: any order of files, and names of any kind."""

import gzip
import io
import tarfile

import pytest

from train.data.tars import DamagedTarError, tar_examples


def write(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(params=["0.tar", "0.tar.gz"])
def read(request, tmp_path):
    def call(*files):
        path = write(tmp_path / request.param, files)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        return list(tar_examples(path))

    return call


def test_pairs_files_in_any_order(read):
    first, second = read(
        ("b.txt", b"text b"), ("a.jpg", b"image a"), ("b.jpg", b"image b"), ("a.txt", b"text a")
    )
    assert (first.key, first.images, first.sidecars.caption) == ("b", [b"image b"], "text b")
    assert (second.key, second.images, second.sidecars.caption) == ("a", [b"image a"], "text a")


def test_the_last_ending_of_a_name_is_its_kind(read):
    first, second = read(
        ("./photos/anna.v1.2.JPEG", b"1"), ("photos/anna.v1.2.txt", b"one"), ("anna.v1.webp", b"2")
    )
    assert (first.key, first.images, first.sidecars.caption) == ("photos/anna.v1.2", [b"1"], "one")
    assert (second.key, second.images) == ("anna.v1", [b"2"])


def test_leaves_out_other_files(read):
    (only,) = read(
        ("a.jpg", b"image"),
        ("._a.jpg", b"of macOS"),
        ("a.cls", b"3"),
        ("a.mp4", b"a video"),
        ("README", b"words"),
        ("a.npz", b"face"),
    )
    assert (only.images, only.face, only.repeated) == ([b"image"], b"face", 0)


def test_counts_repeated_files_and_keeps_the_first(read):
    (only,) = read(("a.jpg", b"1"), ("a.jpg", b"2"), ("a.png", b"3"), ("a.webp", b"4"))
    assert only.images == [b"1", b"3", b"4"] and only.repeated == 1


def test_yields_what_comes_before_the_damage(tmp_path):
    files = [(f"{name}.{kind}", bytes(600)) for kind in ("jpg", "txt") for name in "abc"]
    path = write(tmp_path / "0.tar", files)
    # In the middle of b's text.
    path.write_bytes(path.read_bytes()[: 512 * 12 + 700])
    keys = []
    with pytest.raises(DamagedTarError, match=r"0\.tar is a damaged tar") as error:
        for example in tar_examples(path):
            keys.append(example.key)
    assert keys == ["a", "c"] and error.value.lost
