"""One process, or one group of processes, at a time in a run's folder."""

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
    """Holds a run's folder, which is made where it is missing and removed where it stays empty.

    Two runs in one folder would take each other's saves for what killed ones left. The lock is the
    kernel's, on the folder itself: it leaves no file, and ends with the process however that ends.
    Where several processes train together the first holds it.

    Raises:
      InputError: if another run holds it.
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
            with contextlib.suppress(OSError):  # it is not empty
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
        # Some network file systems have no locks.
        logger.warning("cannot lock %s against a second run: %s", path, error.strerror)
