"""The random model with fewer blocks and layers, which compiles in a fifth of the time."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from instantid_jax import Face
from train import random_model

# The default size of an image for a photo twice as wide as high.
SIZE = (64, 128)
KPS = np.array([[20, 30], [44, 28], [33, 40], [24, 50], [43, 49]], np.float32)


def settings() -> dict:
    """`random_model.SETTINGS` with a layer a block, trained for 128 pixels.

    Two blocks, one with attention, where SDXL has three: parity tests have three.
    """
    small = copy.deepcopy(random_model.SETTINGS)
    small["unet"] |= {
        "sample_size": 16,
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [1, 2],
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 1],
    }
    small["vae"] |= {"block_out_channels": [8, 8, 16, 16]}
    return small


@contextlib.contextmanager
def in_place_of_the_random_model() -> Iterator[None]:
    """Inside, `random_model` makes this one."""
    with mock.patch.object(random_model, "SETTINGS", settings()):
        yield


def write(cache: Path) -> str:
    """Writes the model; returns its folder, which is both `sdxl` and `instantid`."""
    with in_place_of_the_random_model():
        return str(random_model.random_model(cache))


def person(number: int, **values) -> Face:
    """Somebody else for every number, also where the face is."""
    embedding = np.random.default_rng(number).standard_normal(512)
    return Face(**{"embedding": embedding, "kps": KPS + 2 * number} | values)


def unit_noise(number: int, count: int = 1) -> np.ndarray:
    shape = (count, SIZE[0] // 8, SIZE[1] // 8, 4)
    return np.random.default_rng(number).standard_normal(shape, np.float32)
