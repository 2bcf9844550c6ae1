"""Draws the five facial keypoints as IdentityNet's input.

Source: InstantID, `pipeline_stable_diffusion_xl_instantid.py:draw_kps`. Drawn on the host by
OpenCV, because the weights were trained on its rasterization.
"""

import math

import cv2
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import check_keypoints

# RGB of left eye, right eye, nose, left and right corner of the mouth.
_COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
# Each limb ends at the nose and has its first point's color; later limbs cover earlier ones.
_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
_LIMB_HALF_WIDTH = 4
_LIMB_BRIGHTNESS = 0.6
_RADIUS = 10


def draw_keypoints(height: int, width: int, kps: np.ndarray) -> np.ndarray:
    """Draws keypoints as in InstantID's training: uint8 [height, width, 3] RGB.

    Four limbs from the nose, ellipses 8 pixels thick of brightness 153, under five discs of radius
    10 and brightness 255. These sizes do not scale with the image. IdentityNet takes the image
    divided by 255.

    Args:
      kps: [5, 2], x and y in pixels, in the order of `Face.kps`.

    Raises:
      InputError: if `kps` has another shape, is not finite, or lies a million pixels away.
    """
    kps = check_keypoints(np.asarray(kps, np.float32))
    if height < 1 or width < 1:
        raise InputError(f"keypoint image of {height} x {width}: expected sides of 1 or more")

    image = np.zeros((height, width, 3), np.uint8)
    # Truncates positions, lengths and angles instead of rounding, like the original.
    for start, end in _LIMBS:
        x, y = kps[[start, end]].T
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        center = int(x.mean()), int(y.mean())
        axes = int(length / 2), _LIMB_HALF_WIDTH
        polygon = np.asarray(cv2.ellipse2Poly(center, axes, int(angle), 0, 360, 1))
        color = tuple(int(c * _LIMB_BRIGHTNESS) for c in _COLORS[start])
        cv2.fillConvexPoly(image, polygon, color)
    for (x, y), color in zip(kps, _COLORS, strict=True):
        cv2.circle(image, (int(x), int(y)), _RADIUS, color, cv2.FILLED)
    return image
