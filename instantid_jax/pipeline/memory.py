"""Memory of the VAE, which takes more than all other networks for large images."""

import math
import os
from typing import Any, cast

import jax
import jax.numpy as jnp

from instantid_jax.errors import InputError
from instantid_jax.models.vae import VAEConfig

# Feature maps of the image's size, with the channels of the decoder's last upsampling, that are
# alive at once. The upsampling reads and writes one each.
LEAST = 2
# As compiled; see docs/memory.md.
COMPILED = 4


def decoding_bytes(
    config: VAEConfig, size: tuple[int, int], dtype: jnp.dtype, maps: int = COMPILED
) -> int:
    """Temporary memory for decoding one image; encoding takes less.

    Args:
      size: (height, width) of the image, in pixels.
      maps: how many feature maps are alive.
    """
    return maps * config.block_out_channels[1] * math.prod(size) * jnp.dtype(dtype).itemsize


def free_bytes(device: jax.Device) -> int | None:
    """Memory that a device has left; None on a CPU, and where the backend does not count it."""
    if device.platform == "cpu":
        return None
    # PJRT's devices have it, the class that they are typed as does not.
    counted = cast(Any, device).memory_stats() or {}
    if "bytes_limit" not in counted:
        return None
    return counted["bytes_limit"] - counted["bytes_in_use"]


def check_host(config: VAEConfig, size: tuple[int, int], dtype: jnp.dtype) -> None:
    """Raises an InputError for images that a CPU's memory cannot decode.

    Where an accelerator raises an error, XLA ends the process if a CPU's memory is full.

    Args:
      size: (height, width) of what is decoded at a time.
    """
    needed = decoding_bytes(config, size, dtype, LEAST)
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > installed:
        height, width = size
        raise InputError(
            f"{width} x {height} pixels: decoding takes {needed / 1e9:.0f} GB or more, this "
            f"machine has {installed / 1e9:.0f} GB: lower width and height, or load the model "
            "with vae_tiling"
        )
