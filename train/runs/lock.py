"""A lock that admits one run at a time to a run's folder."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Locks a run's folder, creating it if missing and removing it if it is still empty at the end.

    Two runs in one folder would mistake each other's unfinished saves for remnants. The lock is an
    flock on the folder itself: it leaves no file, and the kernel releases it however the process
    ends. In a multi-process run, process 0 holds it.

    Raises:
      InputError: if another run holds the lock.
    """
    if jax.process_index() > 0:
        yield
        return
    run.path.mkdir(parents=True, exist_ok=True)
    folder = os.open(run.path, os.O_RDONLY)
    try:
        _lock(folder, run.path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty
                run.path.rmdir()
    finally:
        os.close(folder)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{path}: another process is training in this folder: wait for it to end, or pass "
            "another --workdir"
        ) from error
    except OSError as error:
        # Some network file systems do not support locks.
        logger.warning("cannot lock %s against a second run: %s", path, error.strerror)
