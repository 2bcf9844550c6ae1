"""Size and sharpness of a face in an image."""

import cv2
import numpy as np

# The recognizer's input size; it makes the measure independent of the image's size.
_SIDE = 112


def face_share(bbox: np.ndarray, size: tuple[int, int]) -> float:
    """Area of a face box, clipped to the image, over the image's area.

    Args:
      bbox: [4], left, top, right, bottom in pixels.
      size: (height, width) of the image.
    """
    height, width = size
    left, top, right, bottom = (float(side) for side in bbox)
    inside_width = min(right, width) - max(left, 0.0)
    inside_height = min(bottom, height) - max(top, 0.0)
    return max(inside_width, 0.0) * max(inside_height, 0.0) / (height * width)


def sharpness(image: np.ndarray, bbox: np.ndarray) -> float:
    """Variance of the Laplacian of a face in grayscale at 112 x 112; 0 for an empty box.

    Tens for blurred or upscaled faces, hundreds and more for sharp ones.
    Source: Pech-Pacheco et al. 2000.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = np.round(bbox).astype(int)
    face = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    if not face.size:
        return 0.0
    gray = cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY)
    shrinks = min(gray.shape) > _SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    gray = cv2.resize(gray, (_SIDE, _SIDE), interpolation=interpolation)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())
