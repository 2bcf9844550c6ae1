"""What a VAE alone leaves of pictures, which is the most that a model on its latents can show."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.weights.layouts import find_network

# At a time.
BATCH = 20


def restore(vae: Path, pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] encoded and decoded again by the VAE of a folder.

    Raises:
      InputError: if the folder holds no VAE.
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
