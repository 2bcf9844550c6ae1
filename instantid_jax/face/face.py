"""A face: its ID embedding and five facial keypoints."""

import dataclasses
import itertools
import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from instantid_jax.arrays import float_array
from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from instantid_jax.paths import local_path

logger = logging.getLogger(__name__)

# No face is so small, in pixels.
SMALLEST = 2
# OpenCV's coordinates have 32 bits; no image is near this size.
_FARTHEST = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """One face. Arrays are copied, cast to float32 and read-only.

    Attributes:
      embedding: [D], the recognizer's raw output, not normalized (insightface's `embedding`, not
        its `normed_embedding`); D is 512 for antelopev2.
      kps: [5, 2], x and y of left eye, right eye, nose, left and right corner of the mouth; left
        and right as seen in the image. In pixels of `image_size`; if that is None, in pixels of
        the output.
      image_size: (height, width) of the photo.
      bbox: [4], left, top, right and bottom in the same pixels; may extend beyond the photo.
      det_score: the detector's confidence, in [0, 1].
      face_pack: name of the face pack that measured it.
      recognizer: SHA-256 of that pack's recognizer, in hexadecimal. Embeddings of two recognizers
        have nothing in common.

    Raises:
      InputError: if a shape is wrong or a value is not finite.
    """

    embedding: np.ndarray = dataclasses.field(repr=False)
    kps: np.ndarray
    image_size: tuple[int, int] | None = None
    bbox: np.ndarray | None = None
    det_score: float | None = None
    face_pack: str | None = None
    recognizer: str | None = None

    def __post_init__(self):
        values: dict[str, np.ndarray | tuple[int, int] | float | str] = {
            "embedding": _finite("embedding", self.embedding, (None,)),
            "kps": check_keypoints(_finite("kps", self.kps, (5, 2))),
        }
        if self.image_size is not None:
            size = _finite("image_size", self.image_size, (2,)).astype(int)
            if size.min() < 1:
                raise InputError(f"a face's image_size is {size.tolist()}: expected height, width")
            values["image_size"] = (int(size[0]), int(size[1]))
        if self.bbox is not None:
            values["bbox"] = _finite("bbox", self.bbox, (4,))
        if self.det_score is not None:
            values["det_score"] = float(_finite("det_score", self.det_score, ()))
            if not 0 <= values["det_score"] <= 1:
                raise InputError(f"a face's det_score is {values['det_score']}: expected 0 to 1")
        for name in ("face_pack", "recognizer"):
            if getattr(self, name) is not None:
                values[name] = str(getattr(self, name))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._warn_of_keypoints()
        if abs(np.linalg.norm(self.embedding) - 1) < 0.01:
            logger.warning(
                "a face's embedding has unit length: InstantID expects the raw one "
                "(insightface's `embedding`, not `normed_embedding`)"
            )

    def _warn_of_keypoints(self) -> None:
        if np.ptp(self.kps, axis=0).max() < SMALLEST:
            logger.warning(
                "a face's keypoints lie within %d pixels: give pixels of the photo, not shares",
                SMALLEST,
            )
        elif self.image_size is not None:
            height, width = self.image_size
            if not ((self.kps >= 0) & (self.kps < (width, height))).all(1).any():
                logger.warning(
                    "a face's keypoints lie outside of its photo of %d x %d pixels", width, height
                )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Face":
        """Reads a face written by `save` or `instantid embed`; requires `embedding` and `kps`.

        Raises:
          InputError: if the file is missing, not an `.npz`, or lacks a field.
        """
        try:
            # Opened here, because NumPy does not close a damaged archive.
            with open(local_path(path), "rb") as opened:
                file = np.load(opened, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise ValueError("one array without names")
                held: list[str] = list(file)
                names = [field.name for field in dataclasses.fields(cls) if field.name in held]
                # Unchecked; the constructor validates them.
                values: dict[str, Any] = {name: file[name] for name in names}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; pass a face written by `save`") from error
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            # For other files NumPy suggests unpickling, which would run their code.
            reason = " ".join(str(error).split())
            reason = "not a NumPy archive" if "allow_pickle" in reason else reason
            raise InputError(
                f"{path} is not a face file ({reason}): expected the .npz "
                "that `instantid embed` makes from a photo"
            ) from error
        missing = [name for name in ("embedding", "kps") if name not in values]
        if missing:
            raise InputError(
                f"{path} is not a face file: it lacks {' and '.join(missing)} "
                f"and holds {', '.join(held) or 'nothing'}"
            )
        # Zeros are nobody in Python; no photo gives them.
        if not np.any(values["embedding"]):
            raise InputError(f"{path}: its embedding is all zeros; embed the photo again")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` with this class's attributes as keys; skips those that are None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        with replacing_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{k: v for k, v in values.items() if v is not None})

    @classmethod
    def mean(cls, faces: "Sequence[Face]") -> "Face":
        """Averages the raw embeddings of one person's photos; the rest comes from the first."""
        given: list[Any] = [faces] if isinstance(faces, Face) else list(faces)
        for face in given:
            if not isinstance(face, Face):
                raise InputError(f"a {type(face).__name__} among the faces: expected Faces")
        faces = given
        if not faces:
            raise InputError("no faces given: pass at least one photo or .npz file")
        sizes = {face.embedding.size for face in faces}
        if len(sizes) > 1:
            raise InputError(
                f"cannot average face embeddings of different lengths {sorted(sizes)}: "
                "use one face pack for all of them"
            )
        for one, other in itertools.combinations(faces, 2):
            if not one.is_comparable(other):
                raise InputError(
                    "cannot average faces of different recognizers, of the face packs "
                    f"{one.face_pack}, {other.face_pack}: use one for all photos"
                )
        embedding = np.mean([face.embedding for face in faces], axis=0)
        return dataclasses.replace(faces[0], embedding=embedding)

    def is_comparable(self, other: "Face") -> bool:
        """Whether both may come from one recognizer; if one does not say it, from one face pack."""
        if self.recognizer and other.recognizer:
            return self.recognizer == other.recognizer
        return None in (self.face_pack, other.face_pack) or self.face_pack == other.face_pack

    def similarity(self, other: "Face") -> float:
        """Cosine between the embeddings: 1 for the same photo, about 0 for different people."""
        norms = np.linalg.norm(self.embedding) * np.linalg.norm(other.embedding)
        return float(self.embedding @ other.embedding / norms) if norms else 0.0

    def kps_for(self, height: int, width: int) -> np.ndarray:
        """Keypoints [5, 2] in pixels of a `height` x `width` output.

        Scales the photo by one factor to fit, and centers it.
        """
        if self.image_size is None:
            return self.kps
        photo_height, photo_width = self.image_size
        scale = min(height / photo_height, width / photo_width)
        margin = [(width - scale * photo_width) / 2, (height - scale * photo_height) / 2]
        return (self.kps * scale + margin).astype(np.float32)

    def mask(self, grow: float = 1.0) -> np.ndarray:
        """The face's box in white, of the photo's size: [H, W] uint8, for masks of a `Request`.

        Args:
          grow: what the sides of the box are multiplied by.
        Raises:
          InputError: if the face was made without its box or the size of its photo, or nothing of
            the box is in the photo.
        """
        if self.bbox is None or self.image_size is None:
            raise InputError("a face without bbox or image_size has no mask: analyze its photo")
        height, width = self.image_size
        corners = self.bbox.reshape(2, 2).astype(float)
        center = corners.mean(0)
        corners = (center + grow * (corners - center)).round().clip(0, (width, height)).astype(int)
        (left, top), (right, bottom) = corners
        if left >= right or top >= bottom:
            raise InputError(
                f"a face's box {self.bbox.tolist()} times {grow:g} has no pixel in its photo of "
                f"{width} x {height} pixels"
            )
        mask = np.zeros((height, width), np.uint8)
        mask[top:bottom, left:right] = 255
        return mask


def check_keypoints(kps: np.ndarray) -> np.ndarray:
    """The keypoints, after checking that they can be drawn.

    Raises:
      InputError: if they have another shape, are not finite, or lie a million pixels away.
    """
    if kps.shape != (5, 2):
        raise InputError(f"keypoints have shape {list(kps.shape)}: expected [5, 2]")
    if not np.isfinite(kps).all():
        raise InputError("keypoints hold NaN or infinity: detect the face again")
    if np.abs(kps).max() > _FARTHEST:
        raise InputError(f"keypoints lie at {np.abs(kps).max():g}: expected pixels of the image")
    return kps


def output_size(
    image_size: tuple[int, int], long_side: int = 1024, multiple: int = 64
) -> tuple[int, int]:
    """(height, width) of an image with a photo's aspect ratio, sides floored to `multiple`.

    Each side is at least `multiple`, even for photos more than 16 times as long as wide.
    Source: InstantID, `infer.py:resize_img`, which resizes twice to get there.
    """
    longest = max(image_size)
    sides = (round(long_side * side / longest) // multiple * multiple for side in image_size)
    height, width = (max(multiple, side) for side in sides)
    return height, width


def _finite(name: str, value: object, shape: tuple[int | None, ...]) -> np.ndarray:
    array = float_array(f"a face's {name}", value).copy()
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        expected = ["D" if want is None else want for want in shape]
        raise InputError(
            f"a face's {name} has shape {list(array.shape)}: expected "
            f"[{', '.join(map(str, expected))}]"
        )
    if not np.isfinite(array).all():
        raise InputError(f"a face's {name} holds NaN or infinity: detect the face again")
    array.setflags(write=False)
    return array
