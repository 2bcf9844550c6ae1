"""Copies of runs in an S3 server on loopback."""

import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from tests.train.remote.server import BUCKET
from train.config import CheckpointConfig
from train.remote import store, uploads
from train.remote.run import RemoteRun
from train.remote.uploads import Uploads
from train.runs.json_lines import append_line
from train.runs.saving import Saver

ADDRESS = f"s3://{BUCKET}/run"
META = Meta(fingerprint={"config": "a"}, seed=0, position=0)


def state(step):
    return {"params": jnp.arange(40.0) + step, "step": jnp.asarray(step)}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(uploads, "PERIOD", 0.01)
    monkeypatch.setattr(uploads, "PAUSE", 0.01)


def train(run, stop, *, each=lambda step: None, **settings):
    """Counts to a step with a save at each, from what the folder or the store has."""
    settings = {"keep": 2, **settings}
    run.path.mkdir(exist_ok=True)
    remote = RemoteRun(run, CheckpointConfig(folder=ADDRESS, **settings))
    remote.fetch(allow_older=False)
    start = 0
    if run.steps():
        start, restored, _ = restore(run, state(0))
        np.testing.assert_array_equal(restored["params"], state(start)["params"])
    with Uploads(remote, start):
        with Saver(run, start=start, every=1, **settings) as saver:
            for step in range(start + 1, stop + 1):
                append_line(run.metrics, {"step": step})
                saver.save(step, state(step), META)
                saver.wait()
                each(step)
    return remote


def settle(remote, step):
    """Waits for an upload."""
    until = time.monotonic() + 60
    while step not in remote.steps():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_empty_machine_resumes_from_the_copy(server, tmp_path):
    run = RunFolder(tmp_path / "a")
    remote = train(run, 3)
    assert remote.steps() == [2, 3] == run.steps()
    moved = RunFolder(tmp_path / "b")
    train(moved, 4)
    lines = moved.metrics.read_text().splitlines()
    assert lines == [f'{{"step": {step}}}' for step in (1, 2, 3, 4)]
    assert remote.steps() == [3, 4]
    # The first machine comes back: the store is ahead of it.
    assert run.steps() == [2, 3]
    train(run, 5)
    assert run.metrics.read_bytes().count(b"\n") == 5
    assert remote.steps() == [4, 5]


def test_checkpoints_to_keep_are_kept_in_the_store(server, tmp_path):
    for stop in (3, 5, 7):
        run = RunFolder(tmp_path / str(stop))
        remote = train(run, stop, keep_every=3)
    assert remote.steps() == [3, 6, 7]
    names = {name.split("/")[2] for name in server.names("run/checkpoints/")}
    assert names == {"3", "6", "7"}


def test_checkpoint_without_its_last_file_does_not_count(server, tmp_path):
    remote = train(RunFolder(tmp_path / "a"), 2)
    server.client.delete_object(Bucket=BUCKET, Key="run/complete/2.json")
    assert remote.steps() == [1]
    moved = RunFolder(tmp_path / "b")
    train(moved, 2)
    assert remote.steps() == [1, 2]


def test_lost_connections_and_a_restart_delay_uploads_only(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store, "PAUSES", (0.01,))
    run = RunFolder(tmp_path / "a")

    def disturb(step):
        if step == 2:
            server.stop()
        if step == 3:
            while "is not uploaded yet" not in caplog.text:
                time.sleep(0.01)
            server.start()
            server.proxy.cut_after(20_000, 500, 5_000, 100)
            settle(remote, 3)

    remote = RemoteRun(run, CheckpointConfig(folder=ADDRESS))
    train(run, 4, each=disturb)
    assert remote.steps() == [3, 4]
    assert caplog.text.count("uploaded checkpoint 4 to s3://") <= 1


def test_server_that_stays_away_is_one_line_and_the_folder_is_whole(server, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PAUSES", ())
    run = RunFolder(tmp_path / "a")
    try:
        with pytest.raises(InputError, match=r"a checkpoint is not uploaded: s3://.*rerun"):
            train(run, 2, each=lambda step: step == 1 and server.stop())
        assert run.steps() == [1, 2]
    finally:
        server.start()
    # The same command has nothing to train, and uploads.
    assert train(run, 2).steps() == [1, 2]


def test_damage_in_the_store_is_found(server, tmp_path):
    train(RunFolder(tmp_path / "a"), 2)
    name = max(server.names("run/checkpoints/2/"), key=lambda n: "/d/" in n)
    data = server.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    server.client.put_object(Bucket=BUCKET, Key=name, Body=data[::-1])
    moved = RunFolder(tmp_path / "b")
    with pytest.raises(InputError, match=f"s3://{BUCKET}/{name} is damaged: remove complete/2"):
        train(moved, 3)
    assert not moved.steps()
    server.client.delete_object(Bucket=BUCKET, Key="run/complete/2.json")
    assert train(moved, 3).steps() == [2, 3]


def test_an_older_start_removes_later_checkpoints(server, tmp_path):
    run = RunFolder(tmp_path / "a")
    remote = train(run, 3)
    with Uploads(remote, 2):
        assert remote.steps() == [2]
        assert not server.names("run/checkpoints/3/")
        # The run sets aside what it has, and takes the step again.
        shutil.move(run.checkpoints / "3", tmp_path / "superseded")
        shutil.copytree(tmp_path / "superseded", run.checkpoints / "3")
        settle(remote, 3)


def test_two_runs_do_not_share_a_copy(server, tmp_path):
    train(RunFolder(tmp_path / "a"), 1)
    other = RunFolder(tmp_path / "b")
    with Saver(other, start=0, every=1) as saver:
        saver.save(1, state(1), META)
    with pytest.raises(InputError, match=f"{ADDRESS} holds the checkpoints of another run"):
        train(other, 2)


def test_path_as_folder_is_refused():
    with pytest.raises(InputError, match="expected an address such as s3://bucket/run"):
        CheckpointConfig(folder="runs/a")
