"""Effects of latent channels on the pixels."""

import jax
import numpy as np

from instantid_jax.components import network
from miniature.base.architecture import VAE
from miniature.base.latents import channel_effects


def test_channel_that_no_pixel_depends_on_has_no_effect():
    shape = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4}
    # The last channel's scale is next to nothing.
    scales = {"latents_mean": [0] * 4, "latents_std": [1, 1, 1, 1e-9]}
    vae = network("vae", VAE | shape | scales)
    # Without biases, zeros stay zeros, and GroupNorm amplifies a step of any size alike.
    params = {name: value + 0.1 for name, value in jax.jit(vae.init)(jax.random.key(0)).items()}
    effects = channel_effects(vae, params)
    np.testing.assert_allclose(effects.mean(), 1, rtol=1e-6)
    assert effects[3] < 1e-3 and effects[:3].min() > 0.1
