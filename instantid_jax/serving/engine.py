"""The engine: continuous batching of requests on one device.

Three threads. One encodes the jobs that are next, compiling whatever they need that is new; one
steps all pictures in flight, and lets others in and out between two steps; one decodes. None waits
for another longer than it must, and submitted requests are checked in the threads that submit them.
"""

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline import stages
from instantid_jax.pipeline.pipeline import InstantIDPipeline
from instantid_jax.pipeline.result import Result, provenance_of
from instantid_jax.request.request import Request
from instantid_jax.serving.job import ClosedError, DeadlineError, Job, Listener
from instantid_jax.serving.picture import Picture
from instantid_jax.serving.pool import Kind
from instantid_jax.serving.status import Status
from instantid_jax.serving.stepper import Stepper, failing
from instantid_jax.serving.waiting import Waiting
from instantid_jax.serving.warming import arrive, measure, pictures_of

logger = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16)
# Pictures that are encoded ahead of a free place.
AHEAD = 2
# Kinds that were not announced compile the one size that fits every picture.
SMALLEST = (2,)
# Deadlines of waiting jobs are looked at as often, in seconds, where no step is.
TICK = 0.1


class Engine:
    """Makes the images of requests that come at any time, in batches that they join and leave.

    A request's images are those that it has by itself, to rounding; to the bit where its steps had
    batches of the same size.
    """

    def __init__(
        self,
        pipe: InstantIDPipeline,
        *,
        rows: Sequence[int] = ROWS,
        waiting: int = 64,
        step_seconds: float | None = None,
    ):
        """Takes a pipeline that nobody else changes.

        Args:
          rows: sizes of batches that are compiled, in rows of the networks: a picture with guidance
            has two. The largest is how many there are in flight.
          waiting: how many jobs may wait.
          step_seconds: pictures join while a step of all takes no longer; None lets them join while
            there are rows.
        Raises:
          InputError: for sizes that no picture fits, and a pipeline that the engine cannot serve.
        """
        self.pipe = pipe
        self._sizes = tuple(sorted(set(rows)))
        if not self._sizes or self._sizes[0] < 1 or self._sizes[-1] < 2:
            raise InputError(f"rows={list(rows)}: expected numbers above 0, the largest at least 2")
        _check_pipeline(pipe)
        self._waiting = Waiting(waiting)
        self._seconds: dict[Kind, dict[int, float]] = {}
        self._arrived: collections.deque[Picture] = collections.deque()
        self._decoding: queue.SimpleQueue[tuple[Picture, jax.Array] | None] = queue.SimpleQueue()
        self._jobs: set[Job] = set()
        self._changed = threading.Condition()
        self._resolving = threading.Lock()
        self._closed = self._stopped = False
        self._threads: list[threading.Thread] = []
        self._status = Status()
        self._stepper = Stepper(
            pipe.model,
            self._sizes[-1],
            step_seconds,
            self._seconds,
            self._status,
            lambda picture, latents: self._decoding.put((picture, latents)),
        )

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compiles what images of these (height, width) need, and measures their steps.

        Raises:
          InputError: for a size that the model cannot make.
        """
        for height, width in sizes:
            for picture in pictures_of(self.pipe, height, width):
                self._measure(picture, self._sizes)

    def _measure(self, picture: Picture, sizes: Sequence[int]) -> None:
        seconds = measure(self.pipe.model, picture, sizes, self._sizes[-1])
        self._seconds.setdefault(picture.kind, {}).update(seconds)

    def __enter__(self) -> Self:
        loops = (self._encode, self._step, self._decode)
        self._threads = [threading.Thread(target=self._guard, args=(loop,)) for loop in loops]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> Status:
        """Numbers of this moment."""
        waiting = len(self._waiting)
        return self._status.at(
            waiting=waiting,
            running=max(0, len(self._jobs) - waiting),
            rows=sum(picture.count for picture in self._stepper.pictures),
        )

    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout: float | None = None,
        previews: int = 0,
        listener: Listener | None = None,
    ) -> Job:
        """Checks a request and lets it wait for a place.

        Args:
          priority: higher ones start first.
          timeout: seconds after which it is given up.
          previews: how many of each image to make.
          listener: hears what becomes of it.
        Raises:
          InputError: for a request that the model cannot serve.
          QueueFullError: if too many wait.
          ClosedError: if the engine was closed.
        """
        if self._closed:
            raise ClosedError("the engine takes no more requests")
        with self._resolving:
            request = self.pipe.with_keypoints(request)
            plan = self.pipe.resolve([request.alone(0)])
        job = Job(request, priority, timeout, previews, listener)
        job.total = len(plan.samplers) * request.num_images_per_prompt
        with self._changed:
            if self._closed:
                raise ClosedError("the engine takes no more requests")
            self._waiting.put(job, self._status.service_seconds)
            self._jobs.add(job)
            self._changed.notify_all()
        job.add_done_callback(self._ended)
        return job

    def position(self, job: Job) -> int:
        """How many jobs start before it; 0 once it has a place."""
        return self._waiting.position(job) if job in self._waiting else 0

    def check(self) -> None:
        """Raises a RuntimeError if a thread of the engine has died."""
        if self._threads and not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a thread of the engine has died")

    def close(self, drain: float = 0.0) -> None:
        """Takes no more requests, and ends.

        Args:
          drain: seconds to wait for the jobs that run and wait; the rest fails.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._jobs, timeout=drain)
            left = list(self._jobs)
        for job in left:
            job.fail(ClosedError("the engine was closed"))
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._decoding.put(None)
        for thread in self._threads:
            thread.join()

    def _ended(self, job: Job) -> None:
        """A job is done, in whichever thread it was."""
        self._status.count(job)
        with self._changed:
            self._jobs.discard(job)
            self._changed.notify_all()

    def _guard(self, loop: Callable[[], None]) -> None:
        """Runs a thread's loop; if it fails, nothing is accepted or waited for in vain."""
        try:
            with self.pipe.model.on_devices(self.pipe.model.dtype):
                loop()
        except Exception as error:
            logger.exception("a thread of the engine failed")
            with self._changed:
                self._closed = self._stopped = True
                left = list(self._jobs)
                self._changed.notify_all()
            self._decoding.put(None)
            for job in left:
                job.fail(error)

    # The first thread.

    def _encode(self) -> None:
        while (job := self._next()) is not None:
            with failing([job]):
                for index in range(job.request.num_images_per_prompt):
                    if job.done or not self._room():
                        break
                    with self._resolving:
                        plan = self.pipe.resolve([job.request.alone(index)])
                    picture = Picture(job, index, plan, arrive(self.pipe.model, plan))
                    if picture.kind not in self._seconds:
                        self._measure(picture, SMALLEST)
                    with self._changed:
                        self._arrived.append(picture)
                        self._changed.notify_all()

    def _next(self) -> Job | None:
        """Waits for a job to encode; None is the end."""
        job = None
        while job is None and self._room():
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or len(self._waiting))
                job = self._waiting.take()
        return job

    def _room(self) -> bool:
        """Waits until a picture more may be encoded; False is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._arrived) < AHEAD)
            return not self._stopped

    # The second thread.

    def _step(self) -> None:
        while self._work():
            self._expire()
            self._stepper.drop_ended()
            self._admit()
            self._stepper.step()

    def _work(self) -> bool:
        """Waits for pictures, or for a job that is late; False is the end."""
        with self._changed:
            while not (self._stepper.pictures or self._arrived or self._stopped):
                self._changed.wait(TICK if len(self._waiting) else None)
                if self._waiting.late():
                    break
            return not self._stopped

    def _expire(self) -> None:
        """Fails jobs that are late, wherever they are."""
        now = time.monotonic()
        with self._changed:
            late = [job for job in self._jobs if job.deadline < now]
        for job in late:
            waited = now - job.submitted
            job.fail(DeadlineError(f"not finished within its time of {waited:.1f} seconds"))

    def _admit(self) -> None:
        """Lets pictures in while there is room for them."""
        while self._arrived:
            picture = self._arrived[0]
            if not picture.job.done and not self._stepper.fits(picture):
                return
            with self._changed:
                self._arrived.popleft()
                self._changed.notify_all()
            if not picture.job.done:
                self._stepper.insert(picture)

    # The third thread.

    def _decode(self) -> None:
        model = self.pipe.model
        while (item := self._decoding.get()) is not None:
            picture, latents = item
            job, plan = picture.job, picture.plan
            if job.done:
                continue
            with failing([job]):
                (pixels,) = stages.decode(model, plan, latents, np.dtype(np.uint8))
                provenance = provenance_of(model, plan, self.pipe.sources)
                made = Result(
                    [Image.fromarray(pixels)], np.asarray(latents), plan.seeds, provenance
                )
                job.add(picture.index, made)


def _check_pipeline(pipe: InstantIDPipeline) -> None:
    model = pipe.model
    refused: dict[str, Any] = {
        "mesh": model.mesh is not None,
        "offload": model.offload,
        "refiner": model.refiner is not None,
    }
    for name, given in refused.items():
        if given:
            raise InputError(f"{name} is given: the serving engine runs without it, leave it out")
