"""Identification scores of embeddings."""

import numpy as np


def identification(
    references: np.ndarray, probes: np.ndarray, found: np.ndarray | None = None
) -> dict[str, float]:
    """Scores how well probes match the references of the same people.

    Args:
      references, probes: embeddings [people, D], in the same order of people.
      found: bool [people], whether a face was found in the probe's picture; None means in all. A
        probe without a face is not identified and has cosine 0 to all references.
    Returns:
      rank1: share of probes whose most similar reference is their own.
      similarity: mean cosine to the probe's own reference.
      similarity_margin: `similarity` minus the mean cosine to other references.
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
