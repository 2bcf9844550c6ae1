"""Faces that are kept under an id."""

import dataclasses
import secrets
import threading
import time
from typing import Protocol

from instantid_jax.face.face import Face


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A face that is kept.

    Attributes:
      owner: whose it is; nobody else may use it.
      expires: by `time.time`.
    """

    face: Face
    owner: str
    expires: float


class Faces(Protocol):
    """Keeps faces."""

    def add(self, face: Face, owner: str) -> tuple[str, Kept]:
        """Keeps a face; returns its id, which cannot be guessed."""
        ...

    def find(self, name: str, owner: str) -> Face | None:
        """The face of an id; None if it is not kept, not any more, or for somebody else."""
        ...

    def remove(self, name: str, owner: str) -> bool:
        """Forgets a face; returns whether `find` would have found it."""
        ...


class FaceStore:
    """Faces by id, in memory, for a time; the oldest make room for new ones."""

    def __init__(self, most: int, seconds: float):
        self._most = most
        self._seconds = seconds
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, face: Face, owner: str) -> tuple[str, Kept]:
        """Keeps a face; returns its id, which cannot be guessed."""
        name = f"face_{secrets.token_urlsafe(18)}"
        with self._lock:
            self._expire()
            while len(self._kept) >= max(1, self._most):
                del self._kept[next(iter(self._kept))]
            kept = self._kept[name] = Kept(face, owner, time.time() + self._seconds)
        return name, kept

    def find(self, name: str, owner: str) -> Face | None:
        """The face of an id; None if it is not kept, not any more, or for somebody else."""
        with self._lock:
            return self._find(name, owner)

    def remove(self, name: str, owner: str) -> bool:
        """Forgets a face; returns whether `find` would have found it."""
        with self._lock:
            found = self._find(name, owner) is not None
            if found:
                del self._kept[name]
            return found

    def _find(self, name: str, owner: str) -> Face | None:
        self._expire()
        kept = self._kept.get(name)
        return None if kept is None or kept.owner != owner else kept.face

    def _expire(self) -> None:
        now = time.time()
        for name in [name for name, kept in self._kept.items() if kept.expires <= now]:
            del self._kept[name]
