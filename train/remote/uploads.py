"""Uploads a run's checkpoints in the background."""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError
from train.remote.run import RemoteRun

logger = logging.getLogger(__name__)

# Seconds between looks for new checkpoints, and after a failed upload.
PERIOD, PAUSE = 0.5, 30.0
_FOLDER = ".uploading"


class Uploads:
    """Copies each finished checkpoint of a run to its object store, the newest first.

    A context manager. A failed upload is logged and tried again; exiting waits until the newest
    checkpoint is uploaded, and raises InputError if it cannot be.
    """

    def __init__(self, remote: RemoteRun, start: int):
        """Args:
        start: the step that the run resumes from. Later checkpoints are removed from the copy.
        """
        self._remote = remote
        self._start = start
        self._folder = remote.run.path / _FOLDER
        self._closing = threading.Event()
        self._error: InputError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._remote.claim()
        self._remote.remove_after(self._start)
        self._done = set(self._remote.steps())
        # Those that the run is about to set aside.
        later = [step for step in self._remote.run.steps() if step > self._start]
        self._stale = {self._identity(step) for step in later}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        if kind is not None and not issubclass(kind, InputError):
            return  # the process is to end at once
        self._thread.join()
        if self._error is not None:
            if kind is None:
                raise self._error
            logger.warning("the newest checkpoint is not uploaded: %s", self._error)

    def _work(self) -> None:
        while True:
            last = self._closing.is_set()
            try:
                while self._upload_new():
                    self._remote.prune()
                if last:
                    self._remote.prune()
                    self._remote.upload_files()
                    return
            # A full disk, for example, must not stop uploads without a word.
            except Exception as error:
                if last:
                    self._error = InputError(f"a checkpoint is not uploaded: {error}")
                    return
                logger.warning("a checkpoint is not uploaded yet: %s", error)
                self._closing.wait(PAUSE)
            self._closing.wait(PERIOD)

    def _upload_new(self) -> bool:
        """Uploads the newest checkpoint that the store lacks; returns whether there was one."""
        missing = [step for step in self._remote.run.steps() if step not in self._done]
        if not missing or self._identity(missing[-1]) in self._stale:
            return False
        step = missing[-1]
        try:
            with self._held(step) as folder:
                self._remote.upload(step, folder)
        except OSError:
            if step in self._remote.run.steps():
                raise
            return True  # Orbax has removed it meanwhile
        self._done.add(step)
        logger.info("uploaded checkpoint %d to %s", step, self._remote.store.address)
        return True

    def _identity(self, step: int) -> int | None:
        """The inode of a checkpoint's folder, or None if it is gone."""
        try:
            return (self._remote.run.checkpoints / str(step)).stat().st_ino
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _held(self, step: int) -> Iterator[Path]:
        """Links a checkpoint's files, so that they stay while Orbax removes the checkpoint."""
        source = self._remote.run.checkpoints / str(step)
        try:
            yield Path(shutil.copytree(source, self._folder, copy_function=_link))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def uploading(remote: RemoteRun | None, start: int) -> Iterator[None]:
    """Uploads a run's checkpoints during the block, in process 0; None does nothing.

    Args:
      start: as for `Uploads`.
    """
    if remote is None:
        yield
        return
    with Uploads(remote, start) if jax.process_index() == 0 else contextlib.nullcontext():
        yield
    if jax.process_count() > 1:
        # Otherwise JAX's service takes process 0 for lost.
        multihost_utils.sync_global_devices("train.remote: checkpoints uploaded")


def _link(source: str, place: str) -> str:
    try:
        os.link(source, place)
    except FileNotFoundError:
        raise
    except OSError:  # not every file system has links
        shutil.copy2(source, place)
    return place
