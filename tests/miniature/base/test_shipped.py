"""The shipped VAE reconstructs held-out pictures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import instantid_jax
from instantid_jax.weights.layouts import find_network
from miniature.portraits import draw_random

FOLDER = Path(instantid_jax.__file__).parent / "embedded" / "sdxl" / "vae"


def test_reconstructs_held_out_pictures():
    vae = find_network(str(FOLDER), "vae")
    params = vae.load(jnp.dtype("float32"))
    drawn = np.stack([np.asarray(draw_random(1000 + i).image) for i in range(6)])
    pixels = drawn.astype(np.float32) / 127.5 - 1

    @jax.jit
    def restore(params, pixels):
        bound = vae.network.bind(params)
        latents = bound.encode(pixels)
        return latents, bound.decode(latents)

    latents, restored = restore(params, pixels)
    errors = np.square(np.clip(restored, -1, 1) - pixels).mean(axis=(1, 2, 3))
    assert (10 * np.log10(4 / errors)).mean() > 23  # dB; 25.5 over 200 pictures
    # Latents have unit scale, like the noise.
    assert abs(latents.mean()) < 0.2 and 0.8 < latents.std() < 1.2
