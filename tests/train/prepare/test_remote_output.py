"""A preparation whose output is in an S3 server on loopback."""

import pickle

import pytest

from instantid_jax.errors import InputError
from tests.face import synthetic_pack
from tests.train.prepare import web
from tests.train.prepare.test_prepare import FILTER, bytes_of
from tests.train.remote.server import BUCKET, serving
from train.data.reading import FaceDataset
from train.prepare.filtering import Filter
from train.prepare.inputs import find_shards
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.remote_output import open_output
from train.prepare.shard import prepare_shard
from train.remote import store

ADDRESS = f"s3://{BUCKET}/prepared"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Settings, analyzer and input shards."""
    folder = tmp_path_factory.mktemp("work")
    web.write_tars(folder / "tars", 2, 8)
    pack = synthetic_pack.write_pack(folder / "pack")
    settings = RecordSettings(face_pack=str(pack), filter=Filter(**FILTER))
    return settings, settings.analyzer(), find_shards(folder / "tars")


def prepare(output, work, *numbers):
    """Prepares shards as a worker process does."""
    settings, analyzer, shards = work
    output = pickle.loads(pickle.dumps(output))
    for number in numbers:
        prepare_shard(number, shards[number], settings, output, analyzer)


def test_machines_without_a_common_disk_make_one_dataset(work, tmp_path, monkeypatch):
    wanted = plan(work[0], work[2])
    local = open_output(tmp_path / "local", wanted)
    prepare(local, work, 0, 1)
    manifest = local.finish()
    monkeypatch.setattr(store, "PAUSES", (0.01,) * 5)
    with serving() as server:
        for machine, number in (("a", 1), ("b", 0)):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
            server.proxy.cut_after(10_000, 2_000, 50_000)
            output = open_output(ADDRESS, wanted)
            assert number in output.missing()
            # Killed after it has written a shard, before the upload.
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(
                    type(output), "_upload", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
                )
                prepare(output, work, number)
            assert number in output.missing()
            prepare(output, work, number)
            assert not list(output.dataset.iterdir())
            assert (output.finish() is None) == (machine == "a")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
        again = open_output(ADDRESS, wanted)
        assert again.missing() == []
        assert again.finish() == manifest
        copy = tmp_path / "copy"
        for name in server.names("prepared/"):
            path = copy / name.removeprefix("prepared/")
            path.parent.mkdir(parents=True, exist_ok=True)
            server.client.download_file(BUCKET, name, str(path))
        assert bytes_of(copy) == bytes_of(tmp_path / "local")
        assert FaceDataset(ADDRESS).fingerprint == FaceDataset(tmp_path / "local").fingerprint
        with pytest.raises(InputError, match=f"--output {ADDRESS} was started with another input"):
            open_output(ADDRESS, {**wanted, "input": "0"})
        with pytest.raises(InputError, match="contains other files"):
            open_output(f"s3://{BUCKET}/prepared/shards", wanted)
