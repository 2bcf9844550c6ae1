"""A run whose data and checkpoints are in an S3 server on loopback, killed twice."""

import shutil
import signal
import time

import pytest

from tests.train import tiny_config, training_process
from tests.train.remote.server import BUCKET, serving
from train.remote.upload import upload

STEPS = 14


def complete(server):
    names = server.names("run/complete/")
    return sorted(int(name.rpartition("/")[2].removesuffix(".json")) for name in names)


def kill_after(process, server, step):
    """Kills a run once the store has a checkpoint of a step or a later one."""
    until = time.monotonic() + training_process.LIMIT
    while not complete(server) or complete(server)[-1] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_run_in_a_store_that_is_killed_twice_equals_a_local_one(tmp_path, monkeypatch):
    straight = tmp_path / "straight"
    assert training_process.end(training_process.start(straight, "--steps", STEPS)) == 0
    faces = tiny_config.get_config().data.datasets[0].folder
    with serving() as server:
        upload_folder = f"s3://{BUCKET}/data"
        from pathlib import Path

        upload(Path(faces), upload_folder)
        options = ("--data.datasets.0.folder", upload_folder)
        options += ("--checkpoints.folder", f"s3://{BUCKET}/run")
        workdir = tmp_path / "run"
        process = training_process.start(workdir, *options, "--steps", 1000)
        server.proxy.cut_after(*range(1000, 200_000, 10_000))
        kill_after(process, server, 3)
        # Another machine goes on: nothing is on its disk.
        shutil.rmtree(workdir)
        server.stop()
        process = training_process.start(workdir, *options, "--steps", 1000)
        time.sleep(5)
        server.start()
        before = complete(server)[-1]
        kill_after(process, server, before + 3)
        server.proxy.cut_after(*range(500, 100_000, 20_000))
        last = complete(server)[-1]
        assert last < STEPS
        assert (
            training_process.end(training_process.start(workdir, *options, "--steps", STEPS)) == 0
        )
        resumed = [e["step"] for e in training_process.events(workdir) if e["event"] == "resumed"]
        assert resumed[0] == before and resumed[1] >= last
        assert complete(server)[-1] == STEPS
        assert server.proxy.cut > 5
    assert training_process.trace(workdir) == training_process.trace(straight)
