"""The VAE in tiles against diffusers', where its tiles are ours.

diffusers begins a tile at every multiple of three quarters of one, so its last tile is narrow. Up
to there, and away from the corners that four tiles share (which it blends twice), both agree.
"""

import numpy as np
import pytest
import torch

from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.tiling import map_tiles
from tests.parity.bridge import to_params
from tests.parity.reference import make_vae, nchw, nhwc, relative_error, unit_noise

TOLERANCE = 3e-5
# Latents of a tile, and from tile to tile.
TILE, STRIDE = 16, 12
PIXELS = 8


@pytest.fixture(scope="module")
def vae():
    channels = [8, 8, 16, 16]
    theirs = make_vae(
        0,
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        sample_size=PIXELS * TILE,
    )
    theirs.enable_tiling()
    assert theirs.tile_latent_min_size == TILE and theirs.tile_overlap_factor == 0.25
    network = Network(AutoencoderKL, VAEConfig.from_json(dict(theirs.config)))
    return theirs, network, to_params(network, theirs.state_dict())


def compared(side: str, ours: np.ndarray, theirs: np.ndarray, unit: int) -> float:
    """The error where both have the same tiles: all but those of the last of diffusers' tiles."""
    end = unit * 2 * STRIDE
    part = np.s_[:, :end] if side == "height" else np.s_[:, :, :end]
    return relative_error(ours[part], theirs[part])


@pytest.mark.parametrize("side", ["height", "width"])
def test_decoded_and_encoded_tiles_of_a_strip(vae, side):
    theirs, network, params = vae
    # Two tiles of ours; the other side is one tile in diffusers too.
    size = (TILE + STRIDE, STRIDE) if side == "height" else (STRIDE, TILE + STRIDE)
    scale = network.config.scaling_factor
    latents = unit_noise(1, 2, *size, network.config.latent_channels)
    with torch.no_grad():
        pixels = nhwc(theirs.decode(nchw(latents / scale)).sample)

    def decode(part):
        return np.asarray(programs.decode_tile(network, params, part))

    ours = map_tiles(decode, latents, TILE, (1, PIXELS))
    assert compared(side, ours, pixels, PIXELS) < TOLERANCE
    whole = decode(latents)
    assert compared(side, whole, pixels, PIXELS) > 10 * TOLERANCE

    images = unit_noise(2, 1, *(PIXELS * each for each in size), 3)
    with torch.no_grad():
        mean = nhwc(theirs.encode(nchw(images)).latent_dist.mean) * scale

    def encode(part):
        return np.asarray(programs.encode_image(network, params, part))

    ours = map_tiles(encode, images, TILE, (PIXELS, 1))
    assert compared(side, ours, mean, 1) < TOLERANCE
    assert compared(side, encode(images), mean, 1) > 10 * TOLERANCE


def test_tiles_of_an_image_but_for_its_corners(vae):
    theirs, network, params = vae
    latents = unit_noise(3, 1, TILE + STRIDE, TILE + STRIDE, network.config.latent_channels)
    with torch.no_grad():
        pixels = nhwc(theirs.decode(nchw(latents / network.config.scaling_factor)).sample)

    def decode(part):
        return np.asarray(programs.decode_tile(network, params, part))

    ours = map_tiles(decode, latents, TILE, (1, PIXELS))
    end, first, last = (PIXELS * each for each in (2 * STRIDE, STRIDE, TILE))
    for rows, columns in (
        (np.s_[:first], np.s_[:end]),
        (np.s_[:end], np.s_[:first]),
        (np.s_[last:end],) * 2,
    ):
        mine, other = (each[:, rows, columns] for each in (ours, pixels))
        assert relative_error(mine, other) < TOLERANCE
