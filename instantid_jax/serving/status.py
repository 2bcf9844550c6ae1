"""Status: numbers of an engine."""

import collections
import dataclasses
import threading

from instantid_jax.pipeline.observer import Canceled
from instantid_jax.serving.job import DeadlineError, Job

# How much the newest job counts for the mean of how long jobs take.
NEWEST = 0.2


@dataclasses.dataclass
class Status:
    """Numbers of an engine, since it was made or of one moment.

    Attributes:
      waiting, running: jobs now.
      rows: how many of the networks are in flight now.
      jobs: that ended, by what became of them: done, canceled, late or failed.
      images: that were made.
      steps: batches that were stepped, by their number of rows.
      service_seconds: mean of the newest jobs' time from their start to their images.
    """

    waiting: int = 0
    running: int = 0
    rows: int = 0
    jobs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    images: int = 0
    steps: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    service_seconds: float = 0.0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def stepped(self, rows: int) -> None:
        """Counts a step."""
        with self._lock:
            self.steps[rows] += 1

    def count(self, job: Job) -> None:
        """Counts a job that has ended."""
        error = job.error
        kind = {Canceled: "canceled", DeadlineError: "late", type(None): "done"}.get(
            type(error), "failed"
        )
        with self._lock:
            self.jobs[kind] += 1
            if error is None:
                self.images += job.request.num_images_per_prompt
                assert job.started is not None and job.finished is not None
                seconds = job.finished - job.started
                before = self.service_seconds or seconds
                self.service_seconds = before + NEWEST * (seconds - before)

    def at(self, *, waiting: int, running: int, rows: int) -> "Status":
        """A copy, with the numbers of this moment."""
        with self._lock:
            return dataclasses.replace(
                self,
                waiting=waiting,
                running=running,
                rows=rows,
                jobs=self.jobs.copy(),
                steps=self.steps.copy(),
                _lock=threading.Lock(),
            )
