"""Runs `python -m train` in child processes, and reads their folders."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instantid_jax.runs.contents import META_FILE, read_description, stored_arrays
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from tests import xla_flags

ROOT = Path(__file__).parent.parent.parent
CONFIG = "tests/train/tiny_config.py"
LIMIT = 600


def start(workdir: Path, *options: Any, program: Sequence[str] = ("train",)) -> subprocess.Popen:
    """Starts training on one CPU device.

    Args:
      program: a module, and its arguments before those of `train`.
    """
    arguments = [*program, CONFIG, "--workdir", workdir, *options]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags.for_one_device()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> int:
    """Waits for the exit status."""
    return finish(process)[0]


def finish(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Waits for the exit status and the lines of the log."""
    try:
        _, stderr = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr.splitlines()


def start_two(workdir: Path, *options: Any) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = ("--coordinator", address, "--processes", 2)
    return [start(workdir, *joined, "--process-id", i, *options) for i in (0, 1)]


def signal_at(process: subprocess.Popen, workdir: Path, step: int, number: signal.Signals) -> None:
    """Sends a signal once the metrics of a step are written."""
    until = time.monotonic() + LIMIT
    while not any(line["step"] >= step for line in metrics(workdir)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "no such step in time"
        time.sleep(0.01)
    process.send_signal(number)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    return _lines(workdir / "metrics.jsonl")


def events(workdir: Path) -> list[dict[str, Any]]:
    return _lines(workdir / "events.jsonl")


def trace(workdir: Path) -> list[tuple]:
    """The values of each step that must depend neither on interruptions nor on validation."""
    names = ("step", "loss", "grad_norm", "learning_rate", "examples_crc32", "example_ids")
    steps = [line for line in metrics(workdir) if "loss" in line]
    return [tuple(json.dumps(line[name]) for name in names) for line in steps]


def state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, by name."""
    run = RunFolder(workdir)
    description = read_description(run.checkpoints / str(step) / "meta" / META_FILE)
    return jax.device_get(restore(run, stored_arrays(description), step=step).state)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # torn
            continue
    return lines
