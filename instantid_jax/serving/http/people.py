"""People of a request: faces in uploaded photos, and faces that are kept under an id."""

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from instantid_jax.embedded import DRAWN_SCORE
from instantid_jax.face.analysis import NoFaceError
from instantid_jax.face.face import Face
from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.uploads import named, read_upload


class Analyst:
    """Finds and measures faces, one photo at a time.

    Args:
      analyze: the largest face in [H, W, 3] uint8 RGB.
      pixels: the most that a photo may have.
      drawn_only: refuse faces that the detector does not recognize as drawn ones, as the embedded
        model needs it.
    """

    def __init__(
        self, analyze: Callable[[np.ndarray], Face], pixels: int, drawn_only: bool = False
    ):
        self._analyze = analyze
        self._pixels = pixels
        self._drawn_only = drawn_only
        # One photo keeps all cores busy; insightface does not promise more.
        self._lock = threading.Lock()

    def person(self, photos: Sequence[bytes | None], field: str) -> list[Face]:
        """The face in each photo of a person.

        Raises:
          FieldError: for a photo that cannot be read, or has no face.
        """
        faces = []
        for data, name in zip(photos, named(field, photos), strict=True):
            if data is None:
                raise FieldError(f"{name} is empty: upload a photo", field)
            face = self.face(read_upload(data, name, self._pixels), name)
            score = face.det_score
            if self._drawn_only and score is not None and score < DRAWN_SCORE:
                raise FieldError(
                    f"{name} does not look like a drawn portrait (detector score {score:.2f}, at "
                    f"least {DRAWN_SCORE} required): this server runs the embedded miniature "
                    "model, which handles drawn portraits only",
                    field,
                    "not_drawn",
                )
            faces.append(face)
        return faces

    def face(self, pixels: np.ndarray, name: str) -> Face:
        """The largest face in an image.

        Raises:
          FieldError: if there is none.
        """
        try:
            with self._lock:
                return self._analyze(pixels)
        except NoFaceError as error:
            message = str(error).replace("the image", name, 1)
            raise FieldError(message, name.partition("[")[0], "no_face") from error


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

    def get(self, name: str, owner: str) -> Face:
        """The face of an id.

        Raises:
          FieldError: if it is not kept, not any more, or for somebody else.
        """
        with self._lock:
            self._expire()
            kept = self._kept.get(name)
        if kept is None or kept.owner != owner:
            raise FieldError(
                "face_id: no such face, or it has expired: upload the photos again",
                "face_id",
                "face_not_found",
            )
        return kept.face

    def remove(self, name: str, owner: str) -> None:
        """Forgets a face.

        Raises:
          FieldError: as `get`.
        """
        self.get(name, owner)
        with self._lock:
            self._kept.pop(name, None)

    def expire(self) -> None:
        """Forgets the faces whose time is over."""
        with self._lock:
            self._expire()

    def _expire(self) -> None:
        now = time.time()
        for name in [name for name, kept in self._kept.items() if kept.expires <= now]:
            del self._kept[name]
