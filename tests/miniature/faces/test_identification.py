import numpy as np
import pytest

from miniature.faces.identification import identification


def test_scores_of_known_embeddings():
    references = np.eye(4) * [[1], [2], [3], [4]]
    probes = np.eye(4)
    assert identification(references, probes) == {
        "rank1": 1,
        "similarity": 1,
        "similarity_margin": 1,
    }
    swapped = identification(references, probes[[1, 0, 2, 3]])
    assert swapped["rank1"] == swapped["similarity"] == 0.5
    assert swapped["similarity_margin"] == pytest.approx(0.5 - 2 / 12)


def test_picture_without_a_face_matches_nobody():
    scores = identification(np.eye(4), np.eye(4), np.array([False, True, True, True]))
    assert scores["rank1"] == scores["similarity"] == scores["similarity_margin"] == 0.75
