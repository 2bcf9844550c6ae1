"""A random refiner for the small model."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from instantid_jax.components import network
from instantid_jax.weights import names
from tests.pipeline import small_model

TEXT_WIDTH = 64


def settings() -> dict:
    """Four blocks, without attention in the lowest; text encoder 2 and five time ids."""
    return small_model.settings()["unet"] | {
        "block_out_channels": [8, 16, 16, 16],
        "attention_head_dim": [1, 1, 1, 1],
        "transformer_layers_per_block": 1,
        "down_block_types": [
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": TEXT_WIDTH,
        "projection_class_embeddings_input_dim": 64 + 5 * 16,
    }


def write(folder: Path, **changes) -> str:
    """Writes `folder/unet`; returns the folder."""
    config = settings() | changes
    place = folder / "unet"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    generator, params = np.random.default_rng(0), {}
    for name, leaf in network("refiner", config).shapes.items():
        drawn = generator.standard_normal(leaf.shape, np.float32)
        scale = name.endswith("scale")
        width = max(1, math.prod(leaf.shape[:-1]))
        params[name] = 1 + drawn / 10 if scale else drawn / width**0.5
    tensors = names.to_torch(params)
    save_file(tensors, place / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return str(folder)
