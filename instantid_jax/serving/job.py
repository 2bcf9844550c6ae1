"""Job: a request in the engine, from submission to its images."""

import concurrent.futures
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from instantid_jax.pipeline.observer import Canceled
from instantid_jax.pipeline.result import Result, join
from instantid_jax.request.request import Request

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue is full.

    Attributes:
      retry_after: seconds until a place may be free, estimated.
    """

    def __init__(self, waiting: int, retry_after: float):
        self.retry_after = retry_after
        super().__init__(
            f"{waiting} requests are waiting already: try again in {math.ceil(retry_after)} seconds"
        )


class DeadlineError(Exception):
    """A request was not finished in its time."""


class ClosedError(Exception):
    """The engine takes no more requests, or was closed before it finished one."""


class Listener:
    """Hears what becomes of a job and does nothing; override what you need.

    The engine's threads call it: its methods must return at once.
    """

    def on_start(self) -> None:
        """The first of its images joined a batch."""

    def on_progress(self, done: int, total: int) -> None:
        """`done` of `total` steps are finished, of all images together.

        Two steps are in flight, so the last ones may be reported after the images.
        """

    def on_preview(self, image: int, pixels: np.ndarray) -> None:
        """Roughly what image `image` looks like: [H/8, W/8, 3] uint8."""


class Job:
    """A request that was submitted; its methods may be called from any thread.

    Attributes:
      request: as it was submitted.
      priority: higher ones start first.
      deadline: by `time.monotonic`, when it is given up; infinite if never.
      previews: how many of each image to make.
      listener: hears what becomes of it.
      total: steps of all images; `steps`: that are finished.
      submitted: by `time.monotonic`; so are `started`, None while it waits, and `finished`.
    """

    def __init__(
        self,
        request: Request,
        priority: int = 0,
        timeout: float | None = None,
        previews: int = 0,
        listener: Listener | None = None,
    ):
        """`timeout`: seconds until the deadline."""
        self.request = request
        self.priority = priority
        self.previews = previews
        self.listener = Listener() if listener is None else listener
        self.total = self.steps = 0
        self.submitted = time.monotonic()
        self.deadline = math.inf if timeout is None else self.submitted + timeout
        self.started: float | None = None
        self.finished: float | None = None
        self._made: dict[int, Result] = {}
        self._future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    @property
    def done(self) -> bool:
        """Whether it is finished, failed or canceled."""
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """Why a job that is done has no images; None if it has."""
        return self._future.exception(0)

    def result(self, timeout: float | None = None) -> Result:
        """Waits for the images.

        Args:
          timeout: seconds to wait; the job continues after them.
        Raises:
          TimeoutError: after `timeout`.
          Canceled: if it was canceled.
          DeadlineError: if its own time was over.
          ClosedError: if the engine was closed before.
          InputError: for images that are not finite.
        """
        return self._future.result(timeout)

    def cancel(self) -> None:
        """Gives the job up; what runs of it ends within two steps. Does nothing to a done job."""
        self.fail(Canceled("the job was canceled"))

    def add_done_callback(self, callback: Callable[["Job"], None]) -> None:
        """Calls `callback(job)` when the job is done, from the thread that ends it."""
        self._future.add_done_callback(lambda _: callback(self))

    def start(self) -> None:
        """Notes that its first image joined a batch; later calls do nothing."""
        if self.started is None:
            self.started = time.monotonic()
            self._tell(self.listener.on_start)

    def progress(self) -> None:
        """Notes that one of its images finished a step."""
        self.steps += 1
        self._tell(self.listener.on_progress, self.steps, self.total)

    def show(self, image: int, pixels: np.ndarray) -> None:
        """Passes a preview on."""
        self._tell(self.listener.on_preview, image, pixels)

    def add(self, image: int, result: Result) -> None:
        """Adds image `image`; the last one ends the job."""
        self._made[image] = result
        if len(self._made) == self.request.num_images_per_prompt:
            self.succeed(join([self._made[i] for i in sorted(self._made)]))

    def succeed(self, result: Result) -> None:
        """Ends the job with its images, unless it has ended."""
        self.finished = self.finished or time.monotonic()
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Ends the job with an error, unless it has ended."""
        self.finished = self.finished or time.monotonic()
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._future.set_exception(error)

    def _tell(self, method: Callable[..., None], *arguments: Any) -> None:
        """The engine outlives its listeners' mistakes."""
        try:
            method(*arguments)
        except Exception:
            logger.exception("a listener failed")
