"""A small random model of InstantID's architecture, for tests and trial runs.

Its images are noise. It is written once from a fixed seed, in the layout of published models, and
loaded like them.
"""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from instantid_jax.atomic import new_folder
from instantid_jax.components import component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Network
from instantid_jax.weights import names, sdxl_base

# Part of the folder's name; increment it when the model changes.
VERSION = 4

VOCABULARY = 514  # 256 bytes, with and without end-of-word marker, and two special tokens
SETTINGS = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 32,
        "block_out_channels": [32, 64, 128],
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 1, 1],
        "layers_per_block": 1,
        "cross_attention_dim": 96,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 64 + 6 * 16,
        "norm_num_groups": 8,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [16, 32, 32, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "eos_token_id": VOCABULARY - 1,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 32,
    },
    "text_encoder_2": {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "eos_token_id": VOCABULARY - 1,
        "hidden_act": "gelu",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 64,
    },
}
RESAMPLER = ResamplerConfig(
    dim=64,
    depth=2,
    inner_dim=64,
    num_queries=16,
    embedding_dim=512,
    output_dim=96,
    ff_inner_dim=256,
)


def random_model(cache: Path) -> Path:
    """Returns the model's folder under `cache`, creating it if missing.

    The folder holds SDXL in diffusers' layout, and InstantID's `ip-adapter.safetensors` and
    `ControlNetModel/`.

    Raises:
      InputError: if `cache` is not writable.
    """
    folder = cache / f"untrained-{VERSION}"
    if not folder.is_dir():
        try:
            with new_folder(folder) as temporary:
                _write(temporary)
        except (InputError, OSError) as error:
            # Another process may have created it first.
            if not folder.is_dir():
                raise InputError(
                    f"{cache} cannot be written ({error}): set XDG_CACHE_HOME to another folder"
                ) from error
    return folder


def _write(folder: Path) -> None:
    for i, (name, settings) in enumerate(SETTINGS.items()):
        net = network(name, settings)
        params = draw_params(net, i)
        if name == "unet":
            id_branch = component_shapes("ip_adapter", net)
            adapter = {k: v for k, v in params.items() if k in id_branch}
            params = {k: v for k, v in params.items() if k not in id_branch}
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        _save(folder / name, f"{stem}.safetensors", names.to_torch(params))
        write_json(folder / name / "config.json", settings)

    shared = {k: v for k, v in SETTINGS["unet"].items() if k != "sample_size"}
    settings = shared | {"_class_name": "ControlNetModel"}
    controlnet = draw_params(network("controlnet", settings), 10)
    _save(
        folder / "ControlNetModel",
        "diffusion_pytorch_model.safetensors",
        names.to_torch(controlnet),
    )
    write_json(folder / "ControlNetModel" / "config.json", settings)

    image_proj = draw_params(network("image_proj", vars(RESAMPLER)), 11)
    tensors = {f"image_proj.{k}": v for k, v in names.to_torch(image_proj).items()}
    tensors |= {f"ip_adapter.{k}": v for k, v in names.adapter_to_torch(adapter).items()}
    _save(folder, "ip-adapter.safetensors", tensors)

    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", sdxl_base.SCHEDULER)
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / name)
    write_json(
        folder / "model_index.json",
        {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
    )


def draw_params(net: Network, seed: int) -> dict[str, np.ndarray]:
    """Draws parameters such that no layer is zero and each preserves the scale of its input.

    Uses NumPy, because compiling the networks' own initialization takes minutes.
    """
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in ((name, spec.shape) for name, spec in net.shapes.items()):
        leaf = name.rpartition(".")[2]
        if leaf in ("bias", "scale"):
            params[name] = np.full(shape, leaf == "scale", np.float32)
        else:
            inputs = math.prod(shape[:-1]) if leaf == "kernel" else shape[-1]
            params[name] = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(inputs))
    return params


def _save(folder: Path, name: str, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name, metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """Writes a byte-level CLIP tokenizer: CLIP's alphabet without merges."""
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
    )


def _byte_alphabet() -> list[str]:
    """A printable character for each byte: GPT-2's byte-level alphabet (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
