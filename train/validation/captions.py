"""Compares generated images with their captions."""

from collections.abc import Sequence

import numpy as np

from instantid_jax.similarity import ClipSimilarity
from train.validation.records import Example


class CaptionScores:
    """CLIP-T: the cosine of CLIP's embeddings of a generated image and of its caption."""

    columns = 1

    def __init__(self, clip: str, examples: Sequence[Example]):
        """Loads CLIP and embeds the captions.

        Args:
          clip: folder or hub id of a transformers `CLIPModel`.
          examples: one for each image.
        Raises:
          InputError: if it cannot be read, or is something else.
        """
        self._clip = ClipSimilarity(clip)
        self._captions = self._clip.embed_texts([example["caption"] for example in examples])

    def score(self, images: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """The cosines, [N, 1]; see `Judge.score`."""
        found = self._clip.embed_images(images)
        return (found * self._captions[list(numbers)]).sum(1, keepdims=True)

    def summarized(self, scores: np.ndarray) -> dict[str, float]:
        """The mean cosine."""
        return {"clip_t": float(scores.mean())}
