"""Memory of the VAE, which takes more than all other networks for large images."""

import logging
import math
import os
from collections.abc import Collection
from typing import Any, cast

import jax
import jax.numpy as jnp

from instantid_jax.errors import InputError
from instantid_jax.models.vae import VAEConfig
from instantid_jax.pipeline.tiling import TILE

logger = logging.getLogger(__name__)

# Feature maps of the image's size, with the channels of the decoder's last upsampling, that are
# alive at once. The upsampling reads and writes one each.
LEAST = 2
# As compiled, with a margin: 3.6 for a v5e, at 512 and 1024 pixels (docs/memory.md).
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


def find_tile(
    tiling: int | bool | None,
    config: VAEConfig,
    size: tuple[int, int],
    dtype: jnp.dtype,
    devices: Collection[jax.Device],
    rows: int,
) -> int | None:
    """The side in pixels of the tiles that the VAE takes; None takes the image whole.

    Args:
      tiling: as `tiling.check_tiling` returns it; None compares the memory and logs its choice.
      size: (height, width) of the image, in pixels.
      devices: with the VAE's weights.
      rows: how many devices divide an image.
    """
    tile = TILE if tiling is None else tiling
    if not tile or max(size) <= tile:
        return None
    if tiling is None:
        free = [left for each in devices if (left := free_bytes(each)) is not None]
        needed = decoding_bytes(config, size, dtype) // rows
        if not free or needed <= min(free):
            return None
        logger.info(
            "decoding %d x %d pixels takes about %.1f GB and %.1f GB are free: the VAE takes "
            "tiles of %d pixels (vae_tiling)",
            *(*size[::-1], needed / 1e9, min(free) / 1e9, tile),
        )
    return tile


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
