"""Writes networks in the format of diffusers and transformers, in half precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save_file

from instantid_jax.json_files import write_json
from instantid_jax.params import Params
from instantid_jax.weights import names

LARGEST_FILE = 14_000_000  # bytes


def write_network(folder: Path, stem: str, settings: Mapping[str, Any], params: Params) -> None:
    """Writes `config.json` and float16 weights: one file, or shards and their index.

    Args:
      folder: created if missing.
      stem: stem of the file names, `model` (transformers) or `diffusion_pytorch_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: np.asarray(v, np.float16) for k, v in names.to_torch(params).items()}
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=stem + "{suffix}.safetensors",
        max_shard_size=LARGEST_FILE,
    )
    for name, held in split.filename_to_tensors.items():
        path = folder / name
        save_file({key: tensors[key] for key in held}, path, metadata={"format": "pt"})
        # safetensors makes files readable by their owner only.
        path.chmod(folder.stat().st_mode & 0o666)
    if split.is_sharded:
        write_json(
            folder / f"{stem}.safetensors.index.json",
            {"metadata": split.metadata, "weight_map": split.tensor_to_filename},
        )
    write_json(folder / "config.json", settings)
