"""Models as they are published, of any size, written in seconds and without torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from instantid_jax.components import component_shapes, network
from instantid_jax.json_files import write_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.weights import names, sdxl_base

VOCABULARY = 1000
# Small; its text is as wide as those of the text encoders together.
UNET = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 96,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 64 + 6 * 16,
    "norm_num_groups": 8,
}
TINY_TEXT_ENCODER = sdxl_base.SETTINGS["text_encoder"] | {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
TINY_TEXT_ENCODER_2 = sdxl_base.SETTINGS["text_encoder_2"] | {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 64,
}
TINY_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TINY_RESAMPLER = {"dim": 64, "depth": 1, "inner_dim": 64, "ff_inner_dim": 64}


def torch_tensors(
    shapes: Mapping[str, jax.ShapeDtypeStruct], dtype: np.dtype
) -> dict[str, np.ndarray]:
    """Noise under torch's names and in its shapes.

    All are views of one block, so that gigabytes take neither time nor memory.
    """
    wanted = {}
    for name, leaf in shapes.items():
        torch, axes = names.torch_name(name, len(leaf.shape))
        wanted[torch] = tuple(leaf.shape[axes.index(i)] for i in range(len(axes)))
    spare = 10_000
    size = spare + max(map(math.prod, wanted.values()))
    rng = np.random.default_rng(0)
    block = (0.02 * rng.standard_normal(size, np.float32)).astype(dtype)
    tensors = {}
    for i, (name, shape) in enumerate(wanted.items()):
        start = 16 * i % spare
        tensors[name] = block[start : start + math.prod(shape)].reshape(shape)
    return tensors


def write_published(
    folder: Path,
    *,
    unet: Mapping,
    controlnet: Mapping,
    dtype: np.dtype,
    vae: Mapping = TINY_VAE,
    text_encoder: Mapping = TINY_TEXT_ENCODER,
    text_encoder_2: Mapping = TINY_TEXT_ENCODER_2,
    resampler: Mapping = TINY_RESAMPLER,
    unet_shards: int = 1,
) -> dict[str, int]:
    """Writes SDXL in diffusers' layout and InstantID into one folder.

    Returns:
      The bytes of each component.
    """
    networks = {
        "unet": {"_class_name": "UNet2DConditionModel", **unet},
        "vae": vae,
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
        "controlnet": {"_class_name": "ControlNetModel", **controlnet},
    }
    sizes = {}
    for name, settings in networks.items():
        net = network(name, settings)
        place = folder / ("ControlNetModel" if name == "controlnet" else name)
        place.mkdir(parents=True)
        write_json(place / "config.json", settings)
        tensors = torch_tensors(component_shapes(name, net), dtype)
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        save_weights(place, stem, tensors, unet_shards if name == "unet" else 1)
        sizes[name] = _bytes(tensors)
        if name == "unet":
            adapter = component_shapes("ip_adapter", net)

    numbers = {layer: 2 * i + 1 for i, layer in enumerate(names.adapter_layers(list(adapter)))}
    numbered = {
        f"{numbers[name.rsplit('.', 2)[0]]}.{'.'.join(name.rsplit('.', 2)[1:])}": leaf
        for name, leaf in adapter.items()
    }
    config = ResamplerConfig(**{"output_dim": unet["cross_attention_dim"], **resampler})
    parts = {
        "image_proj": torch_tensors(network("image_proj", vars(config)).shapes, dtype),
        "ip_adapter": torch_tensors(numbered, dtype),
    }
    sizes |= {part: _bytes(tensors) for part, tensors in parts.items()}
    tensors = {f"{part}.{n}": tensor for part, ts in parts.items() for n, tensor in ts.items()}
    save_file(tensors, folder / "ip-adapter.safetensors", {"format": "pt"})

    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / "vocab.json").write_text('{"<|endoftext|>": 0}')
        (folder / name / "merges.txt").write_text("#version: 0.2\n")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", sdxl_base.SCHEDULER)
    return sizes


def save_weights(folder: Path, stem: str, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """Writes `stem.safetensors`, or its shards and their index."""
    if shards == 1:
        save_file(tensors, folder / f"{stem}.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[i::shards]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": _bytes(tensors)}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _bytes(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
