"""A VAE that begins with a linear code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.components import network
from miniature.base import linear_chain, linear_start
from miniature.base.architecture import VAE
from miniature.base.linear_chain import apply, decoder_layers, encoder_layers
from miniature.base.linear_start import DEVIATION, LOG_VARIANCE
from miniature.portraits import draw_random

NET = network("vae", VAE | {"block_out_channels": [16, 24, 24, 48], "latent_channels": 16})


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pixels():
    return np.stack([np.asarray(draw_random(seed).image) for seed in range(6)])


@pytest.fixture(scope="module")
def kernels():
    return linear_chain.init(NET.config, jax.random.key(0))


@pytest.fixture(scope="module")
def started(pixels, kernels):
    """Moments, and what is decoded from their mean."""
    params = linear_start.init(NET, jax.random.key(1), kernels, pixels)

    @jax.jit
    def run(params, pixels):
        vae = NET.bind(params)
        moments = vae.moments(pixels.astype(jnp.float32) / 127.5 - 1)
        return moments, vae.decode(jnp.split(moments, 2, axis=-1)[0])

    return run(params, pixels)


def test_it_decodes_what_the_chain_does(started, pixels, kernels):
    config = NET.config
    latents = apply(encoder_layers(config), kernels, pixels.astype(np.float32) / 127.5 - 1)
    expected = apply(decoder_layers(config), kernels, latents)
    error = jnp.linalg.norm(started[1] - expected) / jnp.linalg.norm(expected)
    assert error < 0.05


def test_latents_are_not_correlated_and_nearly_without_noise(started):
    mean, log_variance = jnp.split(started[0], 2, axis=-1)
    np.testing.assert_allclose(log_variance, LOG_VARIANCE, atol=1e-3)
    flat = np.asarray(mean).reshape(-1, mean.shape[-1])
    deviations = flat.std(0)
    np.testing.assert_allclose(deviations.mean(), DEVIATION, rtol=0.05)
    # Those that vary most come first.
    assert (np.diff(deviations) < 0.03).all()
    others = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(others).mean() < 0.05


def test_residual_branches_add_nothing_and_yet_can_learn(pixels, kernels):
    params = linear_start.init(NET, jax.random.key(1), kernels, pixels)
    last = [name for name in params if name.endswith(("conv2.kernel", "to_out.0.kernel"))]
    assert len(last) > 10 and not any(params[name].any() for name in last)
    first = [name for name in params if name.endswith(("conv1.kernel", "to_v.kernel"))]
    assert all(params[name].any() for name in first)
