"""A small SDXL, and LoRAs of it."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from instantid_jax.components import network
from instantid_jax.weights.lora.spellings import PARTS, Target, spellings
from tests.convert.published import TINY_TEXT_ENCODER, TINY_TEXT_ENCODER_2, UNET

SETTINGS = {
    "unet": UNET,
    "text_encoder": TINY_TEXT_ENCODER,
    "text_encoder_2": TINY_TEXT_ENCODER_2,
}
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0"
# Names of some layers in kohya's files.
KEY = f"lora_unet_{ATTENTION}_attn2_to_k".replace(".", "_")
CONV = "lora_unet_down_blocks_1_resnets_0_conv1"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"


@functools.cache
def known() -> Mapping[str, Target]:
    return spellings({part: network(part, SETTINGS[part]) for part in PARTS})


def factors(
    name: str, rank: int, seed: int = 0, ends: tuple[str, str] = ("lora_up", "lora_down")
) -> dict[str, np.ndarray]:
    """A LoRA of one layer, under one of its names."""
    out, inside, *kernel = known()[name].shape
    random = np.random.default_rng(seed)
    up, down = (out, rank, *(1 for _ in kernel)), (rank, inside, *kernel)
    return {
        f"{name}.{end}.weight": random.standard_normal(shape, np.float32)
        for end, shape in zip(ends, (up, down), strict=True)
    }


def product(tensors: Mapping[str, np.ndarray], name: str, ends=("lora_up", "lora_down")):
    """up @ down in float64, in the weight's shape and torch's layout."""
    up, down = (tensors[f"{name}.{end}.weight"].astype(np.float64) for end in ends)
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(known()[name].shape)


def write(path: Path, *parts: Mapping[str, np.ndarray], metadata=None) -> str:
    """Writes a file; returns its name."""
    tensors = {name: np.asarray(value) for part in parts for name, value in part.items()}
    save_file(tensors, path, metadata)
    return str(path)


def alpha(name: str, value: float) -> dict[str, np.ndarray]:
    return {f"{name}.alpha": np.float32(value)}
