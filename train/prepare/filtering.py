"""Selects the images for training: those with exactly one usable face."""

import dataclasses

import numpy as np

from instantid_jax.errors import InputError
from train.data.buckets import Size
from train.data.faces import face_share, sharpness
from train.data.record_builder import Rejected, StoredImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """Thresholds for an image and its face.

    Attributes:
      min_side: shorter side of the image, in pixels.
      min_face_share: face box area over image area; smaller faces are ignored.
      min_det_score: the detector's confidence; faces below it are ignored.
      min_sharpness: variance of the Laplacian of the face; tens for blurred or upscaled faces,
        hundreds for sharp ones.
    """

    min_side: int = 256
    min_face_share: float = 0.02
    min_det_score: float = 0.65
    min_sharpness: float = 30.0

    def __post_init__(self):
        for name, most in (("min_face_share", 1), ("min_det_score", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name}={getattr(self, name)}: expected 0 to {most}")
        for name in ("min_side", "min_sharpness"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)}: expected 0 or more")

    def check_size(self, size: Size) -> None:
        """Rejects small images before the expensive face detection.

        Raises:
          Rejected: if the image is too small.
        """
        if min(size) < self.min_side:
            raise Rejected("image too small")

    def only_face(self, boxes: np.ndarray, image: StoredImage) -> int:
        """The index of the only usable face.

        Args:
          boxes: [F, 5]: left, top, right, bottom in pixels, and detection score.
        Raises:
          Rejected: if there is no usable face or more than one, or it is blurred.
        """
        if not len(boxes):
            raise Rejected("no face")
        certain = boxes[:, 4] >= self.min_det_score
        if not certain.any():
            raise Rejected("low detection score")
        large = [face_share(box[:4], image.size) >= self.min_face_share for box in boxes]
        usable = np.flatnonzero(certain & large)
        if not len(usable):
            raise Rejected("face too small")
        if len(usable) > 1:
            raise Rejected("several faces")
        (row,) = usable
        if sharpness(image.pixels, boxes[row, :4]) < self.min_sharpness:
            raise Rejected("face blurred")
        return int(row)
