"""How well embeddings tell people apart."""

import numpy as np


def identification(
    references: np.ndarray, probes: np.ndarray, found: np.ndarray | None = None
) -> dict[str, float]:
    """Of embeddings [people, D] of two pictures each, in the same order.

    Args:
      found: bool [people], whether the probe's picture has a face; None is yes. One without is
        nobody: never identified, and of cosine 0 to all, whatever its embedding.
    Returns:
      rank1: share of probes whose most similar reference is their own.
      similarity: mean cosine to one's own reference.
      similarity_margin: that, less the mean cosine to others'.
    """
    people = len(probes)
    found = np.ones(people, bool) if found is None else found
    cosine = np.where(found[:, None], _unit(probes) @ _unit(references).T, 0)
    own = np.trace(cosine) / people
    others = (cosine.sum() - np.trace(cosine)) / (people * (people - 1))
    return {
        "rank1": float(((cosine.argmax(1) == np.arange(people)) & found).mean()),
        "similarity": float(own),
        "similarity_margin": float(own - others),
    }


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
