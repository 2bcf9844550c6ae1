"""An engine that draws its images instead of sampling them, for tests of what is around it."""

import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from typing import Self

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline.result import Result
from instantid_jax.request import Request
from instantid_jax.request.provenance import Provenance
from instantid_jax.serving.job import ClosedError, Job, Listener, QueueFullError

FACTS = {"version": "0", "scheduler": "EulerDiscreteScheduler", "weights": {"sdxl": "/secret"}}


@dataclasses.dataclass
class Status:
    """The numbers that metrics show."""

    waiting: int = 0
    running: int = 0
    steps: dict[int, int] = dataclasses.field(default_factory=dict)


class FakeEngine:
    """Takes one job at a time, and `seconds` for each of its steps.

    Attributes:
      requests: that were submitted.
      jobs: of them.
      gate: jobs begin while it is set.
      error: what the next jobs fail with; None lets them succeed.
      dead: whether a thread has died.
    """

    def __init__(self, *, waiting: int = 64, seconds: float = 0.0):
        self.requests: list[Request] = []
        self.jobs: list[Job] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.dead = False
        self.warmed: list[tuple[int, int]] = []
        self._seconds = seconds
        self._most = waiting
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.warmed = list(sizes)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="fake-engine")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> Status:
        return Status(waiting=self._queue.qsize(), steps={2: 3})

    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout: float | None = None,
        previews: int = 0,
        listener: Listener | None = None,
    ) -> Job:
        if self._closed:
            raise ClosedError("closed")
        if request.prompt == "refused":
            raise InputError("prompt='refused': the model does not take it")
        if self._queue.qsize() >= self._most:
            raise QueueFullError(self._queue.qsize(), 7)
        job = Job(request, priority, timeout, previews, listener or Listener())
        self.requests.append(request)
        self.jobs.append(job)
        self._queue.put(job)
        return job

    def check(self) -> None:
        if self.dead:
            raise RuntimeError("a thread of the engine has died")

    def position(self, job: Job) -> int:
        return 0

    def close(self, drain: float = 0.0) -> None:
        self._closed = True
        self.gate.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self.gate.wait()
            if self._closed:
                job.fail(ClosedError("closed"))
            if not job.done:
                job.start()
                self._make(job)

    def _make(self, job: Job) -> None:
        request = job.request
        if self.error is not None:
            job.fail(self.error)
            return
        steps = request.num_inference_steps
        for step in range(steps):
            if job.done:
                return
            time.sleep(self._seconds)
            job.listener.on_progress(step + 1, steps)
            if step < job.previews:
                pixels = np.full((request.height // 8, request.width // 8, 3), step, np.uint8)
                job.listener.on_preview(0, pixels)
        job.succeed(drawn(request))


def drawn(request: Request) -> Result:
    """Images of one color each, which the seed says; with a mask as large as the source."""
    masked = request.mask_image is not None
    size = request.image.shape[1::-1] if masked else (request.width, request.height)
    colors = [(seed % 256, seed // 256 % 256, 7) for seed in request.seeds]
    images = [Image.new("RGB", size, color) for color in colors]
    provenance = [Provenance(request, i, facts=FACTS) for i in range(len(images))]
    return Result(images, np.zeros((len(images), 1, 1, 4)), list(request.seeds), provenance)
