"""Fidelity measures: sharpness of faces, PSNR and Frechet distance."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

# Faces are resized to squares of this side, so that sharpness does not depend on their size.
FACE_SIDE = 128


def face_sharpness(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of each face in gray, [N], in squared levels of 255.

    The Laplacian uses all eight neighbors, because thin lines have any direction.

    Args:
      pictures: uint8 [N, H, W, 3].
      boxes: [N, 4], left, top, right, bottom of the faces in pixels; clipped to the picture.
    """
    found = []
    for picture, box in zip(pictures, boxes, strict=True):
        height, width = picture.shape[:2]
        left, top, right, bottom = np.clip(np.round(box), 0, (width, height) * 2).astype(int)
        face = Image.fromarray(picture[top:bottom, left:right]).convert("L")
        gray = np.asarray(face.resize((FACE_SIDE, FACE_SIDE), Image.LANCZOS), np.float32)
        around = sliding_window_view(gray, (3, 3)).sum((-2, -1))
        found.append((around - 9 * gray[1:-1, 1:-1]).var())
    return np.array(found)


def psnr(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio between two batches uint8 [N, H, W, 3], [N], in dB."""
    error = np.square(pictures.astype(np.float64) - others).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-10))


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Squared Frechet distance between two sets of features, [N, D] and [M, D].

    Few samples bias it upward: compare only distances with equal sample sizes.

    Source: Heusel et al. 2017, equation 6.
    """
    means = [np.mean(each, 0, dtype=np.float64) for each in (features, others)]
    covariances = [np.cov(each.astype(np.float64), rowvar=False) for each in (features, others)]
    # The trace of the product's square root. Up to rounding, the eigenvalues are real and not
    # negative.
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1])
    root = np.sqrt(np.maximum(eigenvalues.real, 0)).sum()
    apart = np.square(means[0] - means[1]).sum()
    return float(apart + sum(map(np.trace, covariances)) - 2 * root)
