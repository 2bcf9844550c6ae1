"""FreeU: stronger backbone features and weaker low frequencies of skips, without training.

Source: Si et al. 2023 (FreeU), section 3; diffusers' apply_freeu.
"""

# jax.numpy's stubs leave the argument `device` untyped.
# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp
import numpy as np


def freeu(
    x: jax.Array, skip: jax.Array, backbone_factor: jax.Array, skip_factor: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both inputs of a layer of an up block.

    Args:
      x: [B, H, W, C], the backbone's features, the first half of whose channels is multiplied.
      skip: [B, H, W, C], whose lowest frequencies are.
      backbone_factor, skip_factor: [B].
    """
    half = x.shape[-1] // 2
    factor = backbone_factor.astype(x.dtype)[:, None, None, None]
    x = jnp.concatenate([x[..., :half] * factor, x[..., half:]], axis=-1)
    # Frequencies 0 and -1 of both axes: the middle of a shifted spectrum.
    rows, columns = (_waves(side) for side in skip.shape[1:3])
    wide = skip.astype(jnp.float32)
    spectrum = jnp.einsum("bhwc,hk,wl->bklc", wide, rows.conj(), columns.conj())
    low = jnp.einsum("bklc,hk,wl->bhwc", spectrum, rows, columns).real
    factor = skip_factor.astype(jnp.float32)[:, None, None, None]
    return x, (wide + (factor - 1) * low).astype(skip.dtype)


def _waves(side: int) -> np.ndarray:
    """[side, 2] complex64, of unit norm: the constant and one backward turn."""
    turns = np.outer(np.arange(side), [0, -1]) / side
    return (np.exp(2j * np.pi * turns) / np.sqrt(side)).astype(np.complex64)
