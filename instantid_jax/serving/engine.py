"""The engine: continuous batching of requests on one device.

Three threads. One encodes the jobs that are next, compiling whatever they need that is new; one
steps all pictures in flight, and lets others in and out between two steps; one decodes. None waits
for another longer than it must, and submitted requests are checked in the threads that submit them.
"""

import collections
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline import stages
from instantid_jax.pipeline.loop import IN_FLIGHT, check_finite
from instantid_jax.pipeline.observer import preview
from instantid_jax.pipeline.pipeline import InstantIDPipeline
from instantid_jax.pipeline.result import Result, join, provenance_of
from instantid_jax.request.request import Request
from instantid_jax.serving.group import Group
from instantid_jax.serving.job import ClosedError, DeadlineError, Job, Listener
from instantid_jax.serving.packing import pack, pack_seconds
from instantid_jax.serving.picture import Picture
from instantid_jax.serving.pool import Kind
from instantid_jax.serving.status import Status
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


class Flight(NamedTuple):
    """A step that was dispatched.

    Attributes:
      finite: whether each picture is.
      pictures: those that took it, with their numbers of steps after it.
      previews: pictures that a preview is due of, with their samples.
    """

    finite: jax.Array
    pictures: list[tuple[Picture, int]]
    previews: list[tuple[Picture, jax.Array]]


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
        self._step_seconds = step_seconds
        self._waiting = Waiting(waiting)
        self._seconds: dict[Kind, dict[int, float]] = {}
        self._groups: dict[Kind, Group] = {}
        self._arrived: collections.deque[Picture] = collections.deque()
        self._in_flight: collections.deque[Flight] = collections.deque()
        self._decoding: queue.SimpleQueue[tuple[Picture, jax.Array] | None] = queue.SimpleQueue()
        self._made: dict[Job, dict[int, Result]] = {}
        self._jobs: set[Job] = set()
        self._changed = threading.Condition()
        self._resolving = threading.Lock()
        self._closed = self._stopped = False
        self._threads: list[threading.Thread] = []
        self._status = Status()

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compiles what images of these (height, width) need, and measures their steps.

        Raises:
          InputError: for a size that the model cannot make.
        """
        for height, width in sizes:
            for picture in pictures_of(self.pipe, height, width):
                seconds = measure(self.pipe.model, picture, self._sizes)
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
        pictures = [picture for group in list(self._groups.values()) for picture in group.pictures]
        return self._status.at(
            waiting=len(self._waiting),
            running=len({picture.job for picture in pictures}),
            rows=sum(picture.count for picture in pictures),
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
        self._made.pop(job, None)
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
            with _failing([job]):
                for index in range(job.request.num_images_per_prompt):
                    if job.done or not self._room():
                        break
                    with self._resolving:
                        plan = self.pipe.resolve([job.request.alone(index)])
                    picture = Picture(job, index, plan, arrive(self.pipe.model, plan))
                    if picture.kind not in self._seconds:
                        seconds = measure(self.pipe.model, picture, SMALLEST)
                        self._seconds[picture.kind] = seconds
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
            self._drop()
            self._admit()
            for group in list(self._groups.values()):
                with _failing([picture.job for picture in group.pictures]) as failed:
                    self._step_group(group)
                if failed:
                    self._groups.pop(group.kind)
                elif not group.pictures:
                    # Its pool goes with it.
                    del self._groups[group.kind]
            if not self._groups:
                self._collect(0)

    def _work(self) -> bool:
        """Waits for pictures, or for a job that is late; False is the end."""
        with self._changed:
            while not (self._groups or self._arrived or self._stopped):
                self._changed.wait(TICK if len(self._waiting) else None)
                if self._waiting.late():
                    break
            return not self._stopped

    def _drop(self) -> None:
        """Takes pictures away whose jobs have ended or are late."""
        now = time.monotonic()
        pictures = [picture for group in self._groups.values() for picture in group.pictures]
        with self._changed:
            running = {picture.job for picture in (*pictures, *self._arrived)}
        self._expire([*self._waiting.late(), *(job for job in running if job.deadline < now)])
        for picture in pictures:
            if picture.job.done:
                self._groups[picture.kind].remove(picture)

    def _expire(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            waited = time.monotonic() - job.submitted
            job.fail(DeadlineError(f"not finished within its time of {waited:.1f} seconds"))

    def _admit(self) -> None:
        """Lets pictures in while there is room for them."""
        while self._arrived:
            picture = self._arrived[0]
            if not picture.job.done and not self._fits(picture):
                return
            with self._changed:
                self._arrived.popleft()
                self._changed.notify_all()
            if picture.job.done:
                continue
            with _failing([picture.job]):
                kind = picture.kind
                if kind not in self._groups:
                    model, seconds = self.pipe.model, self._seconds[kind]
                    self._groups[kind] = Group(model, kind, seconds, self._sizes[-1])
                self._groups[kind].insert(picture)
            picture.job.start()

    def _fits(self, picture: Picture) -> bool:
        rows = {kind: [p.count for p in g.pictures] for kind, g in self._groups.items()}
        running = any(rows.values())
        rows[picture.kind] = [*rows.get(picture.kind, []), picture.count]
        if sum(map(sum, rows.values())) > self._sizes[-1]:
            return False
        if self._step_seconds is None or not running:
            return True
        seconds = sum(pack_seconds(each, self._seconds[kind]) for kind, each in rows.items())
        return seconds <= self._step_seconds

    def _step_group(self, group: Group) -> None:
        waiting = [picture for picture in group.pictures if not picture.done]
        for size, chosen in pack([picture.count for picture in waiting], group.seconds):
            pictures = [waiting[i] for i in chosen]
            finite = group.step(size, pictures)
            self._status.stepped(size)
            previews = [(each, group.latents(each)) for each in pictures if each.previewed]
            flown = [(each, each.step) for each in pictures]
            self._in_flight.append(Flight(finite, flown, previews))
            self._collect(IN_FLIGHT)
        for picture in [picture for picture in group.pictures if picture.done]:
            self._decoding.put((picture, group.latents(picture)))
            group.remove(picture)

    def _collect(self, leave: int) -> None:
        """Waits for all but the last steps, and tells what became of them."""
        while len(self._in_flight) > leave:
            flight = self._in_flight.popleft()
            finite = np.asarray(flight.finite)
            for (picture, step), fine in zip(flight.pictures, finite, strict=False):
                with _failing([picture.job]):
                    what = f"the latents after step {step}"
                    check_finite(np.array([fine]), picture.plan.seeds, what)
                    picture.job.progress()
            for picture, sample in flight.previews:
                pixels = preview(self.pipe.model, np.asarray(sample))[0]
                picture.job.show(picture.index, pixels)

    # The third thread.

    def _decode(self) -> None:
        model = self.pipe.model
        while (item := self._decoding.get()) is not None:
            picture, latents = item
            job, plan = picture.job, picture.plan
            if job.done:
                continue
            with _failing([job]):
                (pixels,) = stages.decode(model, plan, latents, np.dtype(np.uint8))
                provenance = provenance_of(model, plan, self.pipe.sources)
                image = Image.fromarray(pixels)
                made = self._made.setdefault(job, {})
                made[picture.index] = Result([image], np.asarray(latents), plan.seeds, provenance)
                if len(made) == job.request.num_images_per_prompt:
                    job.succeed(join([made[i] for i in sorted(made)]))


@contextlib.contextmanager
def _failing(jobs: Sequence[Job]) -> Iterator[list[Exception]]:
    """Fails jobs with what is raised inside, which the engine outlives; yields the errors."""
    errors: list[Exception] = []
    try:
        yield errors
    except Exception as error:
        errors.append(error)
        if not isinstance(error, InputError):
            logger.exception("a request failed")
        for job in jobs:
            job.fail(error)


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
