"""Resizes and crops a stored image and its face to the size of a bucket."""

import dataclasses
from typing import Literal

import cv2
import numpy as np

from train.data.buckets import Size

CropPolicy = Literal["random", "center"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """A resize to the smallest size that covers the target, followed by a crop.

    Attributes:
      source: (height, width) of the stored image.
      resized: (height, width) after the resize, which preserves the aspect ratio up to rounding.
      top, left: corner of the window in the resized image, as in SDXL's micro-conditioning.
      target: (height, width) of the window.
    """

    source: Size
    resized: Size
    top: int
    left: int
    target: Size

    @property
    def reduction(self) -> int:
        """The largest downscaling factor for JPEG decoding that still covers the resize."""
        fits = (
            r
            for r in (8, 4, 2)
            if all(s // r >= t for s, t in zip(self.source, self.resized, strict=True))
        )
        return next(fits, 1)

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Resizes and crops uint8 [*source, 3], or a reduced decoding of it, to [*target, 3]."""
        if pixels.shape[:2] != self.resized:
            # A blur to the width of the new pixels prevents aliasing; OpenCV's area interpolation
            # takes several times as long.
            factor = max(1.0, pixels.shape[0] / self.resized[0])
            width = 0.5 * (factor**2 - 1) ** 0.5
            if width > 0.3:
                pixels = cv2.GaussianBlur(pixels, (0, 0), width)
            pixels = cv2.resize(pixels, self.resized[::-1], interpolation=cv2.INTER_CUBIC)
        rows = slice(self.top, self.top + self.target[0])
        return pixels[rows, self.left : self.left + self.target[1]]

    def points(self, points: np.ndarray) -> np.ndarray:
        """Maps points [..., 2], x and y, from pixels of the source to pixels of the target."""
        scale = np.array(
            [self.resized[1] / self.source[1], self.resized[0] / self.source[0]], np.float32
        )
        corner = np.array([self.left, self.top], np.float32)
        return (np.asarray(points, np.float32) * scale - corner).astype(np.float32)

    def box(self, box: np.ndarray) -> np.ndarray:
        """Maps a box [4], left, top, right, bottom, likewise, and clips it to the target."""
        corners = self.points(np.reshape(box, (2, 2)))
        return np.clip(corners, 0, np.array(self.target[::-1], np.float32)).reshape(4)


def choose_crop(
    source: Size,
    target: Size,
    face: np.ndarray,
    policy: CropPolicy,
    draws: tuple[float, float] = (0.5, 0.5),
) -> Crop:
    """Places the window.

    The resized image just covers the target, so the window can move along one axis only (and by a
    pixel of rounding along the other). "random" draws uniformly among the positions that contain
    the whole face; "center" takes the most central of them. A face longer than the window is
    centered in it as far as the image allows.

    Args:
      face: [n, 2], points to keep inside, in pixels of the source.
      draws: uniform in [0, 1), for top and left; unused by "center".
    """
    scale = max(target[0] / source[0], target[1] / source[1])
    resized = (max(target[0], round(source[0] * scale)), max(target[1], round(source[1] * scale)))
    corners = []
    for axis in (0, 1):
        ratio = resized[axis] / source[axis]
        positions = np.clip(face[:, 1 - axis] * ratio, 0, resized[axis])
        low, high = int(np.floor(positions.min())), int(np.ceil(positions.max()))
        room = resized[axis] - target[axis]
        first, last = max(0, high - target[axis]), min(room, low)
        if first > last:  # the face is longer than the window
            first = last = min(max((low + high - target[axis]) // 2, 0), room)
        if policy == "random":
            corners.append(first + int(draws[axis] * (last - first + 1)))
        else:
            corners.append(min(max(room // 2, first), last))
    return Crop(source=source, resized=resized, top=corners[0], left=corners[1], target=target)
