"""Compares the faces in generated images with those asked for."""

import logging
from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer, aligned_crop
from train.validation.config import ValidationConfig
from train.validation.records import Example

logger = logging.getLogger(__name__)


class FaceScores:
    """Detects the faces in generated images, and compares them with the records' photos."""

    columns = 3

    def __init__(
        self, config: ValidationConfig, examples: Sequence[Example], recognizer: str | None
    ):
        """Loads the networks and measures the photos' faces.

        Args:
          config: its `face_pack` must be set.
          examples: one for each image.
          recognizer: SHA-256 of the recognizer that measured the data; None if it is not known.
        Raises:
          InputError: if a network cannot be read.
        """
        self._analyzer = FaceAnalyzer(config.face_pack, recognizer=config.recognizer)
        self._examples = examples
        self._references = None
        if config.recognizer is None:
            return
        if self._analyzer.recognizer == recognizer:
            logger.warning(
                "validation.recognizer=%s is the one that measured the data's embeddings: "
                "face_cosine will flatter the run; another recognizer is a better judge",
                config.recognizer,
            )
        side = self._analyzer.input_side
        self._references = [
            self._analyzer.embed([aligned_crop(example["images"], example["kps"], side)])[0]
            for example in examples
        ]

    def score(self, images: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Measures the largest face in each image; see `Judge.score`.

        Returns:
          [N, 3] float32: whether there is a face (1 or 0), the mean distance of its keypoints
          from those asked for, in percent of the distance between the asked eyes, and the cosine
          to the photo's face. The last two are 0 without a face, as is the last without a
          recognizer.
        """
        scores = np.zeros((len(images), self.columns), np.float32)
        for row, image, number in zip(scores, images, numbers, strict=True):
            row[:] = self._score(image, number)
        return scores

    def _score(self, image: np.ndarray, number: int) -> tuple[float, float, float]:
        boxes, kps = self._analyzer.find(image)
        if not len(boxes):
            return 0.0, 0.0, 0.0
        asked = self._examples[number]["kps"]
        eyes = max(float(np.linalg.norm(asked[0] - asked[1])), 1.0)
        error = 100 * float(np.linalg.norm(kps[0] - asked, axis=-1).mean()) / eyes
        cosine = 0.0
        if self._references is not None:
            (found,) = self._analyzer.embed([self._analyzer.crop(image, boxes[0], kps[0]).crop])
            cosine = _cosine(found, self._references[number])
        return 1.0, error, cosine

    def summarized(self, scores: np.ndarray) -> dict[str, float]:
        """The numbers of all images from their scores [N, 3].

        An image without a face counts as a cosine of 0, and not in the keypoint error, which is NaN
        if no image has one.
        """
        found = scores[:, 0] > 0
        numbers = {
            "detection_rate": float(found.mean()),
            "keypoint_error": float(scores[found, 1].mean()) if found.any() else float("nan"),
        }
        if self._references is not None:
            numbers["face_cosine"] = float(scores[:, 2].mean())
        return numbers


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    if not np.isfinite(norms):
        raise InputError("validation.recognizer returns numbers that are not finite: give another")
    return float(one @ other) / norms if norms else 0.0
