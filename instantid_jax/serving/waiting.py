"""The queue of jobs that wait for a place."""

import heapq
import itertools
import threading
import time

from instantid_jax.serving.job import Job, QueueFullError


class Waiting:
    """Jobs by priority, then by arrival; those that have ended leave by themselves."""

    def __init__(self, size: int):
        self._size = size
        self._heap: list[tuple[int, int, Job]] = []
        self._arrivals = itertools.count()
        self._lock = threading.Lock()

    def put(self, job: Job, seconds_each: float) -> None:
        """Adds a job.

        Args:
          seconds_each: between two jobs that leave, estimated.
        Raises:
          QueueFullError: if `size` jobs wait.
        """
        with self._lock:
            self._drop_ended()
            if len(self._heap) >= self._size:
                raise QueueFullError(len(self._heap), max(1.0, seconds_each))
            heapq.heappush(self._heap, (-job.priority, next(self._arrivals), job))

    def take(self) -> Job | None:
        """Removes and returns the first job; None if none waits."""
        with self._lock:
            self._drop_ended()
            return heapq.heappop(self._heap)[-1] if self._heap else None

    def position(self, job: Job) -> int:
        """How many jobs are before it; as many as wait if it is not there."""
        with self._lock:
            self._drop_ended()
            waiting = [each for *_, each in sorted(self._heap)]
        return waiting.index(job) if job in waiting else len(waiting)

    def late(self) -> list[Job]:
        """The jobs whose deadline has passed."""
        now = time.monotonic()
        with self._lock:
            return [job for *_, job in self._heap if job.deadline < now]

    def __contains__(self, job: Job) -> bool:
        with self._lock:
            return any(each is job for *_, each in self._heap)

    def __len__(self) -> int:
        with self._lock:
            self._drop_ended()
            return len(self._heap)

    def _drop_ended(self) -> None:
        if any(job.done for *_, job in self._heap):
            self._heap = [entry for entry in self._heap if not entry[-1].done]
            heapq.heapify(self._heap)
