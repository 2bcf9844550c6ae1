"""People of a request: faces in uploaded photos."""

import threading
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
