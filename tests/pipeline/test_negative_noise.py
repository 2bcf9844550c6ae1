"""Noise in the face embedding that the negative prompt has."""

import numpy as np

from instantid_jax.pipeline.conditions.person import negative_embedding
from tests.pipeline.small_model import person

# float32 rounding after three steps.
TOLERANCE = 1e-5


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def test_noise_is_uniform_and_of_the_seed():
    drawn = np.stack([negative_embedding(seed, 0.4, 512) for seed in range(64)])
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() < 0.4
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0.2, 0.4 / 12**0.5], rtol=0.01)
    assert len(np.unique(drawn.round(6))) > 20_000
    np.testing.assert_array_equal(negative_embedding(5, 0.4, 512), drawn[5])
    np.testing.assert_allclose(negative_embedding(5, 0.2, 512), drawn[5] / 2, rtol=1e-6)
    assert negative_embedding(5, 0, 512) is None
    assert np.isfinite(negative_embedding(2**32 - 1, 1, 4)).all()


def test_noise_changes_guided_images_alone(sample):
    plain = sample().latents
    assert error(sample(negative_id_noise=0.35).latents, plain) > 1e-3
    np.testing.assert_array_equal(sample(negative_id_noise=0).latents, plain)
    unguided = sample(guidance_scale=1).latents
    np.testing.assert_array_equal(sample(guidance_scale=1, negative_id_noise=1).latents, unguided)


def test_an_image_is_the_same_alone_and_in_a_batch(sample):
    noise = {"negative_id_noise": 1.0}
    asked = {"prompt": ["rain", "snow"], "face": [person(0), person(1)], "seed": [3, 8]}
    batch = sample(**asked, **noise, num_images_per_prompt=2)
    assert batch.seeds == [3, 4, 8, 9]
    for i, seed in enumerate(batch.seeds):
        alone = sample(
            prompt=asked["prompt"][i // 2], face=asked["face"][i // 2], seed=seed, **noise
        )
        assert error(batch.latents[i], alone.latents[0]) < TOLERANCE
    # Noise of the other images' seeds gives other images.
    plain = sample(**asked, num_images_per_prompt=2)
    assert error(batch.latents, plain.latents) > 1e-3
