"""A run whose data and checkpoints are in an S3 server on loopback, killed twice."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from instantid_jax.cache import cache_folder
from tests.train import tiny_config, training_process
from tests.train.remote.server import BUCKET, serving
from train.data.upload import upload

# Bytes after which connections are cut.
CUTS = [2000, 20_000, 300] * 4
DATA, RUN = f"s3://{BUCKET}/data", f"s3://{BUCKET}/run"


def newest(server):
    names = server.names("run/complete/")
    return max((int(Path(name).stem) for name in names), default=0)


def kill_after(process, server, step):
    """Kills a run once the store has the checkpoint of a step or a later one."""
    until = time.monotonic() + training_process.LIMIT
    while newest(server) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_run_in_a_store_that_is_killed_twice_equals_a_local_one(tmp_path):
    workdir, straight = tmp_path / "run", tmp_path / "straight"

    def start(steps):
        options = ("--data.datasets.0.folder", DATA, "--checkpoints.folder", RUN)
        return training_process.start(workdir, *options, "--steps", steps)

    with serving() as server:
        upload(Path(tiny_config.get_config().data.datasets[0].folder), DATA)
        before = server.proxy.cut
        server.proxy.cut_after(*CUTS)
        kill_after(start(1000), server, 3)
        first = newest(server)
        # Another machine continues; its disk is empty.
        shutil.rmtree(workdir)
        shutil.rmtree(cache_folder() / "data")
        process = start(1000)
        training_process.signal_at(process, workdir, first + 1, signal.SIGCONT)
        server.stop()
        time.sleep(3)
        server.start()
        server.proxy.cut_after(*CUTS)
        kill_after(process, server, first + 3)
        second = newest(server)
        steps = second + 4
        assert training_process.end(start(steps)) == 0
        assert newest(server) == steps
        assert server.proxy.cut - before >= len(CUTS) / 2
    resumed = [e["step"] for e in training_process.events(workdir) if e["event"] == "resumed"]
    assert len(resumed) == 2 and resumed[0] == first and resumed[1] >= second
    assert training_process.end(training_process.start(straight, "--steps", steps)) == 0
    assert training_process.trace(workdir) == training_process.trace(straight)
    assert [line["step"] for line in training_process.metrics(workdir)] == list(range(1, steps + 1))
