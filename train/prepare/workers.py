"""Distributes shards among worker processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from typing import Any

import numpy as np
from tqdm import tqdm

from instantid_jax.cli.entry import DISK
from instantid_jax.errors import InputError
from train.prepare.inputs import InputShard
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings
from train.prepare.shard import prepare_shard

# Spawn: a forked process has onnxruntime's state without its threads.
_CONTEXT = multiprocessing.get_context("spawn")


def run(
    settings: RecordSettings,
    shards: Sequence[InputShard],
    output: Output,
    numbers: Sequence[int],
    workers: int,
) -> None:
    """Prepares the shards in `numbers`, and shows progress.

    Raises:
      InputError: if a worker raised it.
      SystemExit: if a worker failed or was killed.
    """
    if not numbers:
        return
    following = _CONTEXT.Value("q", 0)
    # For each shard: images seen, images kept, done. Only its worker writes, so it needs no lock.
    counts = _CONTEXT.Array("q", 3 * len(numbers), lock=False)
    processes = {}
    with contextlib.ExitStack() as stack:
        for _ in range(min(workers, len(numbers))):
            mine, its = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_work,
                args=(settings, shards, output, numbers, following, counts, its),
                daemon=True,
            )
            with _interrupts_blocked():
                process.start()
            its.close()
            stack.callback(process.join)
            stack.callback(process.terminate)
            processes[process.sentinel] = process, mine
        bar = stack.enter_context(tqdm(unit=" images", disable=None))
        while processes:
            ended = connection.wait(list(processes), timeout=0.5)
            _show(bar, np.array(counts))
            for sentinel in ended:
                process, pipe = processes.pop(sentinel)
                process.join()
                if process.exitcode:
                    _raise(process.exitcode, pipe)
        _show(bar, np.array(counts))


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which this process handles for all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise(status: int, pipe: connection.Connection) -> None:
    with contextlib.suppress(EOFError):
        raise InputError(pipe.recv())
    if status > 0:
        raise SystemExit("train.prepare: a worker failed (see the error above); rerun to resume")
    raise SystemExit(
        f"train.prepare: a worker was killed by signal {-status}; rerun to resume, with fewer "
        "--workers if it ran out of memory"
    )


def _show(bar: tqdm, counts: np.ndarray) -> None:
    of_shard = counts.reshape(-1, 3)
    seen, kept, done = of_shard.sum(axis=0).tolist()
    if done:
        # Assumes that the other shards are as large as the finished ones.
        of_done = of_shard[of_shard[:, 2] > 0, 0].mean()
        bar.total = max(seen, round(of_done * len(of_shard)))
    if seen:
        bar.set_postfix_str(f"{1 - kept / seen:.0%} rejected, {done} of {len(of_shard)} shards")
    bar.update(seen - bar.n)


def _work(
    settings: RecordSettings,
    shards: Sequence[InputShard],
    output: Output,
    numbers: Sequence[int],
    following: Any,
    counts: Any,
    pipe: connection.Connection,
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        analyzer = settings.analyzer()
        while True:
            with following.get_lock():
                i = following.value
                following.value += 1
            if i >= len(numbers):
                return

            def report(seen: int, kept: int, i: int = i) -> None:
                counts[3 * i], counts[3 * i + 1] = seen, kept

            number = numbers[i]
            prepare_shard(number, shards[number], settings, output, analyzer, report)
            counts[3 * i + 2] = 1
    except InputError as error:
        pipe.send(str(error))
        raise SystemExit(2) from error
    except OSError as error:
        if error.errno not in DISK:
            raise
        pipe.send(f"{error.filename or 'writing'}: {error.strerror}")
        raise SystemExit(2) from error


def _end_with_parent() -> None:
    """Exits when the parent ends, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    connection.wait([parent.sentinel])
    # The next run cleans up.
    os._exit(1)
