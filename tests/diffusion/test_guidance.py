import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.diffusion.guidance import classifier_free_guidance


def predictions(batch=2):
    return np.random.default_rng(0).standard_normal((2 * batch, 4, 4, 3), np.float32)


def test_formula(strict_promotion):
    both = predictions()
    negative, positive = both[:2], both[2:]
    guided = classifier_free_guidance(jnp.asarray(both), 5.0)
    np.testing.assert_allclose(guided, negative + 5 * (positive - negative), rtol=1e-6, atol=1e-6)


def test_scale_of_one_and_of_zero():
    both = predictions()
    np.testing.assert_allclose(classifier_free_guidance(both, 1.0), both[2:], atol=1e-6)
    np.testing.assert_array_equal(classifier_free_guidance(both, 0.0), both[:2])


def test_float32_from_bfloat16():
    both = jnp.asarray(predictions(), jnp.bfloat16)
    guided = classifier_free_guidance(both, 5.0)
    assert guided.dtype == jnp.float32
    exact = classifier_free_guidance(both.astype(jnp.float32), 5.0)
    np.testing.assert_array_equal(guided, exact)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="negative, positive"):
        classifier_free_guidance(predictions()[:3], 5.0)
