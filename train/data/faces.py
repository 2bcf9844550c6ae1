"""Measures of a face in a picture."""

import cv2
import numpy as np

# The recognizer's input: a measure at this size does not depend on the picture's.
_SIDE = 112


def face_share(bbox: np.ndarray, size: tuple[int, int]) -> float:
    """The share of a picture's area that a face's box takes, what lies outside cut off.

    Args:
      bbox: [4], left, top, right, bottom in pixels.
      size: (height, width) of the picture.
    """
    height, width = size
    left, top, right, bottom = (float(side) for side in bbox)
    inside_width = min(right, width) - max(left, 0.0)
    inside_height = min(bottom, height) - max(top, 0.0)
    return max(inside_width, 0.0) * max(inside_height, 0.0) / (height * width)


def sharpness(picture: np.ndarray, bbox: np.ndarray) -> float:
    """Variance of the Laplacian of a face, grey and resized to 112 x 112; 0 where there is none.

    A blurred or enlarged face gives tens, a sharp one hundreds and more.
    Source: Pech-Pacheco et al. 2000.
    """
    height, width = picture.shape[:2]
    left, top, right, bottom = np.round(bbox).astype(int)
    face = picture[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    if not face.size:
        return 0.0
    grey = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
    shrinks = min(grey.shape) > _SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    grey = cv2.resize(grey, (_SIDE, _SIDE), interpolation=interpolation)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())
