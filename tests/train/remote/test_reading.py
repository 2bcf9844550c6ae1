"""Datasets in an object store, read through an S3 server on loopback."""

import shutil

import numpy as np
import pytest

from instantid_jax.errors import InputError
from tests.train.data import drawn
from tests.train.data.test_record import assert_same
from tests.train.remote.server import BUCKET
from train.data.batches import Batches
from train.data.config import DataConfig, DatasetShare
from train.data.latent_cache import EncodedImage, LatentCache, write_latents
from train.data.reading import FaceDataset
from train.data.record import CorruptRecord
from train.data.upload import main, upload
from train.remote import shards, store

ADDRESS = f"s3://{BUCKET}/data"
SIZES = [(64, 64), (64, 96)] * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two datasets."""
    root = tmp_path_factory.mktemp("data")
    drawn.dataset(root / "a", SIZES, shards=3)
    drawn.dataset(root / "b", SIZES[:5], first=50)
    return root


@pytest.fixture
def uploaded(folder, server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(folder, ADDRESS)
    server.proxy.requests.clear()
    return folder


def shard_name(server, part="a", number=0):
    names = server.names(f"data/{part}")
    return sorted(name for name in names if ".array_record-" in name)[number]


def same_records(dataset, other):
    assert len(dataset) == len(other)
    for row in range(len(other)):
        assert_same(dataset[row], other[row])


def test_dataset_is_the_same_as_the_local_one(uploaded, server, tmp_path):
    local, remote = FaceDataset(uploaded), FaceDataset(ADDRESS)
    assert remote.fingerprint == local.fingerprint
    np.testing.assert_array_equal(remote.image_size, local.image_size)
    same_records(remote, local)
    requests = len(server.proxy.requests)
    same_records(remote, local)
    assert len(server.proxy.requests) == requests
    # Another process finds what is cached: it lists the store, and reads each shard's end.
    same_records(FaceDataset(ADDRESS), local)
    again = [line.split()[1] for line in server.proxy.requests[requests:]]
    assert sum(b"list-type" in line for line in again) == 1
    assert len(again) == 1 + 5


def test_batches_are_the_same_with_connections_cut(uploaded, server):
    def batches(where):
        config = DataConfig(datasets=(DatasetShare(folder=where),), buckets=((64, 64),))
        return Batches(config, (drawn.tokenizer, drawn.tokenizer), 4, seed=3)

    local, remote = batches(str(uploaded)), batches(ADDRESS)
    assert remote.fingerprint == local.fingerprint
    cut = server.proxy.cut
    server.proxy.cut_after(30_000, 5_000, 20_000, 100)
    for step in range(6):
        ours, theirs = remote.batch(step), local.batch(step)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert server.proxy.cut == cut + 4
    assert remote.corruption.corrupt == 0


def test_cached_latents_are_the_same_as_the_local_ones(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, buckets = drawn.dataset(tmp_path / "data", SIZES[:4]), ((64, 64),)
    local = FaceDataset(folder)
    upload(folder, ADDRESS)
    with pytest.raises(InputError, match=f"{ADDRESS} has no cached latents for buckets 64x64"):
        LatentCache(ADDRESS, FaceDataset(ADDRESS), buckets)
    random = np.random.default_rng(0)
    images = [EncodedImage(random.normal(size=(8, 8, 8)), np.uint32(row)) for row in range(3)]
    write_latents(folder, local, buckets, "vae", enumerate(images))
    upload(folder, ADDRESS)
    ours, theirs = (LatentCache(each, FaceDataset(each), buckets) for each in (ADDRESS, folder))
    ours.check_vae("vae")
    for row in range(3):
        np.testing.assert_array_equal(ours[row].moments, theirs[row].moments)
        assert ours[row].crc32 == row
    with pytest.raises(CorruptRecord, match="unusable when the latents were computed"):
        ours[3]


def test_cache_keeps_its_bound(uploaded, tmp_path, monkeypatch):
    local = FaceDataset(uploaded)
    largest = max(path.stat().st_size for path in uploaded.rglob("*.array_record-*"))
    bound = largest + 100_000
    monkeypatch.setenv(shards.VARIABLE, str(bound / 1e9))
    remote = FaceDataset(ADDRESS)
    folder = tmp_path / "cache" / "instantid_jax" / "data" / "shards"
    seen = set()
    for row in np.random.default_rng(0).permutation(np.tile(np.arange(len(local)), 2)):
        assert_same(remote[int(row)], local[int(row)])
        files = list(folder.iterdir())
        seen |= {file.name for file in files}
        assert sum(file.stat().st_blocks * 512 for file in files) <= bound
    assert len(seen) == 5


def test_files_that_another_process_removes_are_fetched_again(uploaded, tmp_path):
    remote, local = FaceDataset(ADDRESS), FaceDataset(uploaded)
    same_records(remote, local)
    shutil.rmtree(tmp_path / "cache" / "instantid_jax" / "data" / "shards")
    same_records(remote, local)


def test_replaced_dataset_is_read_anew(uploaded, server, tmp_path):
    before = FaceDataset(ADDRESS)
    before[0]
    drawn.dataset(tmp_path / "new" / "a", SIZES, shards=3, first=100)
    shutil.copytree(uploaded / "b", tmp_path / "new" / "b")
    upload(tmp_path / "new", ADDRESS)
    after = FaceDataset(ADDRESS)
    assert after.fingerprint != before.fingerprint
    same_records(after, FaceDataset(tmp_path / "new"))


def test_damage_in_the_store_is_told_from_lost_connections(uploaded, server):
    name = shard_name(server)
    data = bytearray(server.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    data[200] ^= 1
    server.client.put_object(Bucket=BUCKET, Key=name, Body=bytes(data))
    remote = FaceDataset(ADDRESS)
    with pytest.raises(CorruptRecord, match="Corrupted"):
        remote[0]
    assert_same(remote[1], FaceDataset(uploaded)[1])
    server.client.put_object(Bucket=BUCKET, Key=name, Body=bytes(data[:-70_000]))
    with pytest.raises(InputError, match=f"s3://{BUCKET}/{name} is damaged .*upload it again"):
        FaceDataset(ADDRESS)[0]
    server.client.delete_object(Bucket=BUCKET, Key=name)
    with pytest.raises(InputError, match=f"s3://{BUCKET}/{name} is missing"):
        FaceDataset(ADDRESS)


def test_index_that_differs_from_its_checksum_is_refused(uploaded, server):
    (name,) = (n for n in server.names("data/b") if n.endswith("index.npz"))
    data = server.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    server.client.put_object(Bucket=BUCKET, Key=name, Body=data[::-1])
    with pytest.raises(InputError, match=f"s3://{BUCKET}/{name} differs from its checksum"):
        FaceDataset(ADDRESS)


def test_upload_that_is_cut_is_continued(folder, server, tmp_path, monkeypatch):
    def puts():
        return [line for line in server.proxy.requests if line.startswith(b"PUT")]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    server.proxy.cut_after(*[60_000] * 200)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be reached"):
        patch.setattr(store, "PAUSES", ())
        upload(folder, ADDRESS)
    # The metadata that make it a dataset come last.
    with pytest.raises(InputError, match=f"{ADDRESS} has no dataset"):
        FaceDataset(ADDRESS)
    server.proxy.cut_after()
    done = len(server.names())
    server.proxy.requests.clear()
    main([str(folder), ADDRESS])
    assert server.names("data/") == sorted(f"data/{name}" for name in [*wanted, "SHA256SUMS"])
    assert len(puts()) <= len(wanted) + 4 - done
    server.proxy.requests.clear()
    main([str(folder), ADDRESS])
    assert {line.rpartition(b"/")[2] for line in puts()} == {b"SHA256SUMS"}


def test_bad_input_is_one_line(server, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), ADDRESS])
    assert ended.value.code == 2
    assert "has no dataset" in capsys.readouterr().err
    monkeypatch.setenv(shards.VARIABLE, "many")
    with pytest.raises(InputError, match=f"{shards.VARIABLE}=many: expected a number"):
        FaceDataset(ADDRESS)
