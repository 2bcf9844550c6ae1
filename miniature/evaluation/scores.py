"""Figures of pictures of many people: whether each is found, is whom and where it was asked for."""

from typing import NamedTuple

import numpy as np

from miniature.evaluation.named import named


class Faces(NamedTuple):
    """The largest face of each of N pictures.

    Attributes:
      found: bool [N].
      embeddings: float32 [N, D]; zeros where none is found.
      kps: float32 [N, 5, 2], pixels; zeros where none is found.
    """

    found: np.ndarray
    embeddings: np.ndarray
    kps: np.ndarray


def keypoint_error(faces: Faces, asked: np.ndarray, width: int) -> float:
    """Mean distance from where keypoints were asked for, of the faces found, in picture widths.

    Args:
      asked: [N, 5, 2], pixels.
    """
    away = np.linalg.norm(faces.kps - asked, axis=-1)[faces.found]
    return float(away.mean() / width) if len(away) else float("nan")


def caption_accuracy(answers: np.ndarray, captions: list[str]) -> float:
    """Share of pictures whose style and background are both what the caption names.

    Args:
      answers: [N, 2], as `named` has them.
    """
    return float((answers == np.array([named(c) for c in captions])).all(1).mean())
