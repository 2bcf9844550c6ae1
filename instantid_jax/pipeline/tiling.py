"""Tiles: parts of a large image that the VAE takes one at a time, and their blend on the host.

All tiles of an image have one shape, so that one program serves all images with sides of a tile or
more, and memory on the devices does not grow with the image. Source: diffusers' AutoencoderKL,
`tiled_decode`; there the last tiles are narrow, here they begin earlier and overlap more.
"""

from collections.abc import Callable

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.request.checks import check_whole

# The side of a tile in pixels.
TILE = 512
SMALLEST, LARGEST = 64, 4096
# Pixels of a latent.
LATENT = 8
# Tiles overlap by a quarter, in whole latents.
OVERLAP = 4


def check_tiling(tiling: bool | int | None) -> bool | int | None:
    """Checks `vae_tiling` of `InstantIDPipeline.load`: the side in pixels, False, or None.

    Raises:
      InputError: for anything else.
    """
    if tiling is None or isinstance(tiling, bool):
        return TILE if tiling else tiling
    side = check_whole("vae_tiling", tiling, SMALLEST, LARGEST)
    if side % (OVERLAP * LATENT):
        raise InputError(
            f"vae_tiling={side}: expected a multiple of {OVERLAP * LATENT} pixels, True for "
            f"{TILE}, False, or None"
        )
    return side


def starts(length: int, tile: int) -> list[int]:
    """The positions where the tiles of a side begin; the last one ends with the side."""
    if length <= tile:
        return [0]
    stride = tile - tile // OVERLAP
    count = -(-(length - tile) // stride) + 1
    return [*(i * stride for i in range(count - 1)), length - tile]


def shares(begins: list[int], span: int) -> np.ndarray:
    """Weights of each tile's positions along a side: [tiles, span].

    Over the positions that it shares with the tile before, a tile fades in linearly, and all tiles
    before fade out.
    """
    kept = np.ones((len(begins), span))
    for i in range(1, len(begins)):
        overlap = begins[i - 1] + span - begins[i]
        ramp = np.arange(overlap) / overlap
        kept[i, :overlap] = ramp
        for before in range(i):
            shared = begins[before] + span - begins[i]
            if shared > 0:
                kept[before, -shared:] *= 1 - ramp[:shared]
    return kept


def map_tiles(
    run: Callable[[np.ndarray], np.ndarray], array: np.ndarray, tile: int, units: tuple[int, int]
) -> np.ndarray:
    """Runs a function on the tiles of images, and blends what it returns.

    Args:
      run: takes and returns [B, h, w, ...] of one tile.
      array: [B, H, W, ...].
      tile: side of a tile in latents.
      units: positions of a latent, in what `run` takes and in what it returns.
    Returns:
      [B, H, W, ...] float32.
    """
    taken, made = units
    sides = [side // taken for side in array.shape[1:3]]
    rows, columns = (starts(side, tile) for side in sides)
    height, width = (min(side, tile) for side in sides)
    down, across = (
        shares([made * begin for begin in begins], made * span)
        for begins, span in ((rows, height), (columns, width))
    )
    blended: np.ndarray | None = None
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            result = run(
                array[
                    :,
                    taken * top : taken * (top + height),
                    taken * left : taken * (left + width),
                ]
            )
            if blended is None:
                shape = (len(result), *(made * side for side in sides), *result.shape[3:])
                blended = np.zeros(shape, np.float32)
            share = np.outer(down[i], across[j]).astype(np.float32)[:, :, None]
            blended[:, made * top : made * (top + height), made * left : made * (left + width)] += (
                share * result
            )
    assert blended is not None
    return blended
