"""Scores over pictures of many people: keypoint error and caption accuracy."""

from typing import NamedTuple

import numpy as np

from miniature.evaluation.named import named


class Faces(NamedTuple):
    """The largest face of each of N pictures.

    Attributes:
      found: bool [N].
      embeddings: float32 [N, D]; zeros where no face is found.
      kps: float32 [N, 5, 2], pixels; zeros where no face is found.
    """

    found: np.ndarray
    embeddings: np.ndarray
    kps: np.ndarray


def keypoint_error(faces: Faces, asked: np.ndarray, width: int) -> float:
    """Mean distance of found faces' keypoints from the requested ones, in picture widths.

    Args:
      asked: the requested keypoints, [N, 5, 2], pixels.
    """
    away = np.linalg.norm(faces.kps - asked, axis=-1)[faces.found]
    return float(away.mean() / width) if len(away) else float("nan")


def caption_accuracy(answers: np.ndarray, captions: list[str]) -> float:
    """Share of pictures with both the style and the background that the caption names.

    Args:
      answers: predicted labels [N, 2], in the numbering of `named`.
    """
    return float((answers == np.array([named(c) for c in captions])).all(1).mean())
