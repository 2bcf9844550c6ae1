"""The interface of measurements of generated images."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Judge(Protocol):
    """Scores of generated images, and the numbers that they amount to.

    Attributes:
      columns: how many scores an image has.
    """

    columns: int

    def score(self, images: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Measures images.

        Args:
          images: uint8 [N, H, W, 3] RGB.
          numbers: those of their examples.
        Returns:
          [N, columns] float32.
        """
        ...

    def summarized(self, scores: np.ndarray) -> dict[str, float]:
        """The numbers by name, from the scores of all images, [N, columns]."""
        ...
