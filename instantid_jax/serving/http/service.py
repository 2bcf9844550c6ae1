"""Service: what the routes share."""

import concurrent.futures
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sized

from instantid_jax.face.face import Face
from instantid_jax.request import Settings
from instantid_jax.serving.engine import Engine
from instantid_jax.serving.http.errors import ServiceError
from instantid_jax.serving.http.kept import Faces
from instantid_jax.serving.http.limits import RETRY_AFTER, Budget, Limits
from instantid_jax.serving.http.metrics import Metrics
from instantid_jax.serving.http.people import Analyst
from instantid_jax.serving.http.sizes import Sizes

# Threads that read uploads and write images.
WORKERS = 2


@dataclasses.dataclass(eq=False, kw_only=True)
class Service:
    """The engine, and all that the routes need beyond it.

    Attributes:
      faces: keeps those that have an id.
      default: the person of requests that name none; None refuses those.
      settings: defaults of requests.
      ready: whether the sizes are compiled.
      draining: whether the process is about to end.
    """

    engine: Engine
    analyst: Analyst
    sizes: Sizes
    faces: Faces
    limits: Limits = Limits()
    default: Face | None = None
    settings: Settings = Settings()
    ready: bool = False
    draining: bool = False

    def __post_init__(self):
        self.budget = Budget(self.limits.memory_bytes)
        self.workers = concurrent.futures.ThreadPoolExecutor(WORKERS, "instantid-http")
        self.admission = Admission(self.limits)
        gauges: dict[str, Callable[[], float]] = {
            "requests_in_progress": lambda: self.admission.count,
            "memory_bytes": lambda: self.budget.used,
            "ready": lambda: self.ready and not self.draining,
        }
        if isinstance(self.faces, Sized):
            gauges["faces"] = self.faces.__len__
        self.metrics = Metrics(lambda: self.engine.status, gauges)

    def close(self) -> None:
        """Ends the worker threads."""
        self.workers.shutdown(wait=False, cancel_futures=True)


class Admission:
    """Counts the requests that are served, in all and for each owner; used in the event loop."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._owners: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self._owners.total()

    @contextlib.contextmanager
    def enter(self, owner: str) -> Iterator[None]:
        """Counts a request while it is served.

        Raises:
          ServiceError: if there are too many.
        """
        if self.count >= self._limits.requests:
            raise ServiceError(
                503,
                f"the server has {self.count} requests already: try again later",
                code="queue_full",
                retry_after=RETRY_AFTER,
            )
        if owner and self._owners[owner] >= self._limits.requests_per_token:
            raise ServiceError(
                429,
                f"{self._owners[owner]} requests with this token are being served: wait for one",
                code="rate_limit_exceeded",
                retry_after=RETRY_AFTER,
            )
        self._owners[owner] += 1
        try:
            yield
        finally:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
