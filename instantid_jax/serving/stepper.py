"""The stepper: steps all pictures in flight, whatever their kinds, and lets others in."""

import collections
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.pipeline.loop import IN_FLIGHT, check_finite
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.observer import preview
from instantid_jax.serving.group import Group
from instantid_jax.serving.job import Job
from instantid_jax.serving.packing import pack, pack_seconds
from instantid_jax.serving.picture import Picture
from instantid_jax.serving.pool import Kind
from instantid_jax.serving.status import Status

logger = logging.getLogger(__name__)


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


class Stepper:
    """Groups of pictures, and their steps in flight; one thread changes it."""

    def __init__(
        self,
        model: LoadedModel,
        rows: int,
        step_seconds: float | None,
        seconds: Mapping[Kind, Mapping[int, float]],
        status: Status,
        finished: Callable[[Picture, jax.Array], None],
    ):
        """Has no picture yet.

        Args:
          rows: how many there are in flight at most.
          step_seconds: see `Engine`.
          seconds: that a step of each kind takes, by the size of a batch; grows with the kinds.
          status: counts steps.
          finished: is called with pictures that took all their steps, and their latents.
        """
        self._model = model
        self._rows = rows
        self._step_seconds = step_seconds
        self._seconds = seconds
        self._status = status
        self._finished = finished
        self._groups: dict[Kind, Group] = {}
        self._in_flight: collections.deque[Flight] = collections.deque()

    @property
    def pictures(self) -> list[Picture]:
        """All in flight; other threads may look at them."""
        return [picture for group in list(self._groups.values()) for picture in group.pictures]

    def drop_ended(self) -> None:
        """Removes pictures whose jobs have ended."""
        for picture in self.pictures:
            if picture.job.done:
                self._groups[picture.kind].remove(picture)

    def fits(self, picture: Picture) -> bool:
        """Whether there is room for a picture more."""
        rows = {kind: [p.count for p in g.pictures] for kind, g in self._groups.items()}
        running = any(rows.values())
        rows[picture.kind] = [*rows.get(picture.kind, []), picture.count]
        if sum(map(sum, rows.values())) > self._rows:
            return False
        if self._step_seconds is None or not running:
            return True
        seconds = sum(pack_seconds(each, self._seconds[kind]) for kind, each in rows.items())
        return seconds <= self._step_seconds

    def insert(self, picture: Picture) -> None:
        """Takes a picture that has arrived."""
        with failing([picture.job]):
            kind = picture.kind
            if kind not in self._groups:
                self._groups[kind] = Group(self._model, kind, self._seconds[kind], self._rows)
            self._groups[kind].insert(picture)
            picture.job.start()

    def step(self) -> None:
        """Dispatches a step of every picture, and collects those before the last two."""
        for group in list(self._groups.values()):
            with failing([picture.job for picture in group.pictures]) as failed:
                self._step_group(group)
            if failed or not group.pictures:
                # Its pool goes with it.
                del self._groups[group.kind]
        if not self._groups:
            self._collect(0)

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
            self._finished(picture, group.latents(picture))
            group.remove(picture)

    def _collect(self, leave: int) -> None:
        """Waits for all but the last steps, and tells what became of them."""
        while len(self._in_flight) > leave:
            flight = self._in_flight.popleft()
            finite = np.asarray(flight.finite)
            for (picture, step), fine in zip(flight.pictures, finite, strict=False):
                with failing([picture.job]):
                    what = f"the latents after step {step}"
                    check_finite(np.array([fine]), picture.plan.seeds, what)
                    picture.job.progress()
            for picture, sample in flight.previews:
                pixels = preview(self._model, np.asarray(sample))[0]
                picture.job.show(picture.index, pixels)


@contextlib.contextmanager
def failing(jobs: Sequence[Job]) -> Iterator[list[Exception]]:
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
