"""Weights of 8 bits: reading them from safetensors files, and the scales that go with them.

Checkpoints are published in float8 to save memory on GPUs: either cast, or divided by a scale
that is stored next to them. They are read back into wider floats; nothing here computes in float8.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.weights.tensors import FLOAT8, FLOATS, LazyTensor, Tensors

# safetensors' names.
DTYPES = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# Leaves next to a `weight`: its scale, and what concerns activations or names the format.
SCALES = ("scale_weight", "weight_scale")
IGNORED = ("scale_input", "input_scale", "comfy_quant")
# Marks a file whose weights have scales.
MARKER = "scaled_fp8"


def read_float8(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The float8 tensors of a safetensors file that is known to be sound.

    safetensors' interface to NumPy cannot read them.

    Args:
      shapes: of those tensors, by name.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name, shape in shapes.items():
        dtype = DTYPES[header[name]["dtype"]]
        read = partial(_read, path, 8 + size + header[name]["data_offsets"][0], shape, dtype)
        tensors[name] = LazyTensor(shape, dtype, read)
    return tensors


def _read(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = np.empty(shape, dtype)
    with path.open("rb") as file:
        file.seek(offset)
        if file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
            raise InputError(f"{path}: cut short while it was read; download or copy it again")
    return values


def unscaled(tensors: Tensors, path: Path) -> Tensors:
    """Multiplies weights with the scales next to them, in float32 and when they are read.

    `a.weight` with `a.scale_weight` becomes one tensor; scales of activations, which only matter
    for products in float8, are dropped.

    Raises:
      InputError: if a scale fits neither a weight nor its rows.
    """
    found = {
        f"{module}.weight": name
        for name in tensors
        for module, dot, leaf in (name.rpartition("."),)
        if leaf in SCALES and f"{module}{dot}weight" in tensors
    }
    if not found and not any(name.endswith(MARKER) for name in tensors):
        return tensors
    dropped = {*found.values(), *(name for name in tensors if name.endswith(MARKER))}
    kept = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if name in dropped or (leaf in IGNORED and f"{module}.weight" in tensors):
            continue
        if name in found:
            tensor = _scaled(name, tensor, tensors[found[name]], path)
        kept[name] = tensor
    return kept


def _scaled(name: str, weight: LazyTensor, scale: LazyTensor, path: Path) -> LazyTensor:
    rows = weight.shape[:1]
    count = int(np.prod(scale.shape, dtype=np.int64))
    each_row = count > 1 and scale.shape[:1] == rows and count == rows[0]
    if weight.dtype not in (*FLOAT8, *FLOATS) or scale.dtype not in FLOATS:
        raise InputError(
            f"{path}: {name} is stored as {weight.dtype} with a scale of {scale.dtype}, expected "
            "float8; use the float16, bfloat16 or float32 file"
        )
    if count != 1 and not each_row:
        raise InputError(
            f"{path}: {name} of shape {weight.shape} has scales of shape {scale.shape}, expected "
            "one, or one for each row; use the float16, bfloat16 or float32 file"
        )
    shape = (*rows, *(1 for _ in weight.shape[1:])) if each_row else ()

    def read() -> np.ndarray:
        value = weight.read().astype(np.float32)
        value *= scale.read().astype(np.float32).reshape(shape)
        return value

    return LazyTensor(weight.shape, np.dtype(np.float32), read)
