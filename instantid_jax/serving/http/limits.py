"""Limits of the service: sizes, counts and times of requests, and the memory they may hold."""

import dataclasses

from instantid_jax.serving.http.errors import ServiceError

# Seconds after which a client may try again when it was refused for lack of room.
RETRY_AFTER = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that the service accepts.

    Attributes:
      body_bytes: bytes of one request's body.
      memory_bytes: bytes of the bodies, decoded and repainted images of all requests at a time.
      body_seconds: for sending a body.
      idle_seconds: for sending a request's headers, and for reading some of an answer.
      photos: photos of a person in one request.
      pixels: pixels of an uploaded image.
      images: images of one request.
      steps: num_inference_steps of one request.
      characters: characters of a prompt.
      requests: that are served at a time, in all.
      requests_per_token: the same for each token.
      seconds: from a request's arrival in the queue to its images.
      faces: kept under an id.
      face_seconds: after which a face that is kept is forgotten.
    """

    body_bytes: int = 128 * 2**20
    memory_bytes: int = 2 * 2**30
    body_seconds: float = 120.0
    idle_seconds: float = 30.0
    photos: int = 8
    pixels: int = 40_000_000
    images: int = 8
    steps: int = 150
    characters: int = 20_000
    requests: int = 128
    requests_per_token: int = 32
    seconds: float = 600.0
    faces: int = 1000
    face_seconds: float = 3600.0


class Budget:
    """Memory that requests share; used in the event loop and in worker threads."""

    def __init__(self, total: int):
        self._total = total
        self._leases: set[Lease] = set()

    @property
    def used(self) -> int:
        return sum(lease.held for lease in tuple(self._leases))

    def lease(self) -> "Lease":
        """A request's share; nothing so far."""
        lease = Lease(self)
        self._leases.add(lease)
        return lease

    def take(self, count: int) -> None:
        """Raises a ServiceError if that many bytes are not free."""
        if self.used + count > self._total:
            raise ServiceError(
                503,
                "the server holds as many uploads as it has memory for: try again later",
                retry_after=RETRY_AFTER,
            )

    def drop(self, lease: "Lease") -> None:
        self._leases.discard(lease)


class Lease:
    """The share of a `Budget` that one request holds until it is answered."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self.held = 0

    def take(self, count: int) -> None:
        """Holds that many bytes more.

        Raises:
          ServiceError: if they are not free.
        """
        self._budget.take(count)
        self.held += count

    def release(self) -> None:
        self._budget.drop(self)
