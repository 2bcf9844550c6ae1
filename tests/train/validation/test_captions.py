"""Scores of generated images by their captions, with a small CLIP model."""

import numpy as np
import pytest

from instantid_jax.similarity import ClipSimilarity
from tests.parity.clip_model import write_clip
from train.validation.captions import CaptionScores

CAPTIONS = ("red", "the man in rain", "a")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_clip(folder)
    return str(folder)


def test_each_image_is_compared_with_its_own_caption(clip):
    scores = CaptionScores(clip, [{"caption": caption} for caption in CAPTIONS])
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
    similarity = ClipSimilarity(clip)
    cosines = similarity.embed_images(images) @ similarity.embed_texts(CAPTIONS).T
    found = scores.score(images, [2, 0])
    np.testing.assert_allclose(found, [[cosines[0, 2]], [cosines[1, 0]]], atol=1e-6)
    assert np.abs(cosines).max() <= 1 and np.ptp(cosines, axis=1).min() > 0.01
    assert scores.summarized(found) == {"clip_t": pytest.approx(found.mean())}
    assert scores.score(images[:0], []).shape == (0, 1)
