"""Layers keep PyTorch's semantics where Flax's defaults differ."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instantid_jax.models import layers


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_group_norm_keeps_precision_far_from_zero(offset):
    x = offset + np.random.default_rng(0).standard_normal((2, 4, 4, 8)).astype(np.float32)
    grouped = x.astype(np.float64).reshape(2, 16, 2, 4)
    centered = grouped - grouped.mean((1, 3), keepdims=True)
    exact = centered / np.sqrt(centered.var((1, 3), keepdims=True) + 1e-5)
    ours = layers.GroupNorm(8, 2, eps=1e-5, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(ours.reshape(2, 16, 2, 4), exact, atol=2e-3)


def test_group_norm_of_16_bits_loses_what_these_lose():
    x = 3 + np.random.default_rng(0).standard_normal((2, 4, 4, 8)).astype(np.float32)
    x = jnp.asarray(x, jnp.bfloat16)
    norm = layers.GroupNorm(8, 2, eps=1e-5, rngs=nnx.Rngs(0))
    found = norm(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), norm(x.astype(jnp.float32)), atol=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_is_the_exact_one(dtype):
    x = jnp.linspace(-6, 6, 401).astype(dtype)
    exact = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in np.asarray(x, np.float64)]
    found = layers.gelu(x)
    assert found.dtype == x.dtype
    tolerance = {"float32": 1e-6, "bfloat16": 4e-3}[dtype]
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=tolerance, atol=1e-6)


def test_strided_convolution_pads_both_sides():
    """A kernel that picks its first row and column reads the padding at the first position."""
    conv = layers.conv3x3(1, 1, stride=2, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)
    x = jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv(x)[0, :, :, 0], [[0, 0], [0, 6]])


@pytest.mark.parametrize(("size", "last"), [((4, 4), 4), ((3, 4), 2), ((4, 3), 3)])
def test_upsampling_is_cropped_at_the_far_sides(size, last):
    x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    out = layers.upsample_nearest(x, size)
    assert out.shape == (1, *size, 1)
    assert out[0, 0, 0, 0] == 1
    expected = {(4, 4): 4, (3, 4): 4, (4, 3): 4}[size]
    assert out[0, -1, -1, 0] == expected


def test_sinusoidal_embedding_starts_with_cosines():
    embedding = layers.sinusoidal_embedding(jnp.zeros(1), 6)
    np.testing.assert_array_equal(embedding, [[1, 1, 1, 0, 0, 0]])
