"""Killed runs: SIGTERM saves and ends them, SIGKILL leaves the previous checkpoint."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore, restore_weights
from tests.train.runs.worker import META
from train.runs.saving import PREEMPTED_STATUS, Saver

ROOT = Path(__file__).parent.parent.parent.parent
LIMIT = 120


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def start():
    """Starts workers, and kills them at the end."""
    started = []

    def start_one(run, *options, devices=2):
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.train.runs.worker", str(run.path), *map(str, options)],
            cwd=ROOT,
            env={
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_PLATFORMS": "cpu",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(worker)
        return worker

    yield start_one
    for worker in started:
        worker.kill()
        worker.communicate()


def start_two(start, run, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(run, "--address", address, "--process", i, *options) for i in (0, 1)]


def read_until(worker, word):
    for line in worker.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"{word!r} never came: {worker.stderr.read()[-2000:]}")


def finish(worker) -> tuple[int, list[str], str]:
    """Exit status, the worker's own lines, and the log."""
    out, log = worker.communicate(timeout=LIMIT)
    assert "Traceback" not in log, log[-4000:]
    # Threads of the transport also print, sometimes into each other's lines.
    own = [line for line in out.splitlines() if line.startswith(("resumed", "step"))]
    return worker.returncode, own, log


def counted(run):
    """The step of the newest checkpoint, after checking its values."""
    template = {
        "params": jax.ShapeDtypeStruct((64, 256), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.float32),
    }
    step, state, _ = restore(run, template)
    assert (np.asarray(state["params"]) == step).all() and state["step"] == step
    return step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_single_process_saves_and_exits_with_its_own_status(run, start, number):
    worker = start(run, "--every", 1000)
    read_until(worker, "step 3")
    worker.send_signal(number)
    status, lines, _ = finish(worker)
    assert status == PREEMPTED_STATUS
    step = int(lines[-1].split()[1])
    assert 4 <= step < 1000
    assert run.steps() == [step]
    assert counted(run) == step


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_makes_both_save_the_same_step(run, start):
    workers = start_two(start, run, "--every", 2)
    read_until(workers[0], "step 3")
    workers[1].send_signal(signal.SIGTERM)
    (first, lines, _), (second, others, _) = (finish(worker) for worker in workers)
    assert (first, second) == (PREEMPTED_STATUS, PREEMPTED_STATUS)
    assert lines[-1] == others[-1]
    step = counted(run)
    assert lines[-1] == f"step {step}"

    # Only the second process reads the damaged data it wrote, yet both fall back together.
    older = run.steps()[-2]
    for path in (run.checkpoints / str(step) / "state" / "ocdbt.process_1" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:10])
    workers = start_two(start, run, "--every", 100, "--stop", older + 3)
    for worker, message in zip(
        workers, ("process 1 cannot read it", "params cannot be read"), strict=True
    ):
        status, lines, log = finish(worker)
        assert status == 0
        assert f"step {step} is damaged: {message}" in log
        assert lines[0] == f"resumed {older}"
        assert lines[-1] == f"step {older + 3}"
    assert counted(run) == older + 3


def test_sigkill_during_a_save_keeps_the_previous_checkpoint(run, start):
    worker = start(run, "--die")
    assert finish(worker)[0] == -signal.SIGKILL
    assert len(list(run.checkpoints.iterdir())) == 2
    assert run.steps() == [1]
    assert restore_weights(run)["x"].tolist() == [1] * 8
    with Saver(run, start=1, every=1) as saver:
        saver.save(2, {"params": {"x": jnp.zeros((8,))}}, META)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["1", "2"]
    assert restore_weights(run)["x"].tolist() == [0] * 8


def test_signal_handler_is_restored_on_exit(run):
    before = signal.getsignal(signal.SIGTERM)
    with Saver(run, start=0, every=100) as saver:
        assert not saver.reached_preemption(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert saver.reached_preemption(2)
        assert saver.save(2, {"params": {"x": jnp.ones(3)}}, META, force=True)
    assert signal.getsignal(signal.SIGTERM) is before
    assert run.steps() == [2]
