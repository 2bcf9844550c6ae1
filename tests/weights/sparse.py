"""Weights files of full size that take no room: their values are a hole in the file."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tests.parity import reference
from tests.parity.test_full_size import NETWORKS


def write_sparse(
    path: Path, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
) -> Path:
    """A safetensors file of zeros in float16."""
    header, end = {"__metadata__": dict(metadata or {})}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def sdxl_shapes() -> dict[str, tuple[int, ...]]:
    """All tensors of an SDXL checkpoint in the original layout."""
    with torch.device("meta"):
        networks = (
            NETWORKS[name][1](**NETWORKS[name][2])
            for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        )
        state = reference.original_state(*networks)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
