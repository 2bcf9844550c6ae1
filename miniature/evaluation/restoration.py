"""Reconstructs pictures with a VAE; the upper limit for a model on its latents."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.weights.layouts import find_network

# Pictures at a time.
BATCH = 20


def restore(vae: Path, pictures: np.ndarray) -> np.ndarray:
    """Encodes and decodes pictures uint8 [N, H, W, 3] with the VAE in a folder.

    Raises:
      InputError: if the folder does not contain a VAE.
    """
    found = find_network(str(vae), "vae")
    params = found.load(jnp.dtype("float32"))

    @jax.jit
    def through(params: dict[str, jax.Array], pixels: jax.Array) -> jax.Array:
        bound = found.network.bind(params)
        restored = bound.decode(bound.encode(pixels.astype(jnp.float32) / 127.5 - 1))
        return jnp.clip(jnp.round(127.5 * (restored + 1)), 0, 255).astype(jnp.uint8)

    parts = np.split(pictures, range(BATCH, len(pictures), BATCH))
    return np.concatenate([np.asarray(through(params, part)) for part in parts])
