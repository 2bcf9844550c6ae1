"""How well embeddings tell people apart."""

import numpy as np


def identification(references: np.ndarray, probes: np.ndarray) -> dict[str, float]:
    """Of embeddings [people, D] of two pictures each, in the same order.

    Returns:
      rank1: share of probes whose most similar reference is their own.
      similarity: mean cosine to one's own reference.
      margin: that, less the mean cosine to others'.
    """
    references, probes = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (references, probes)
    )
    cosine = probes @ references.T
    people = len(cosine)
    own = np.trace(cosine) / people
    others = (cosine.sum() - np.trace(cosine)) / (people * (people - 1))
    return {
        "rank1": float((cosine.argmax(1) == np.arange(people)).mean()),
        "similarity": float(own),
        "margin": float(own - others),
    }
