"""`python -m convert to-torch`: InstantID out of a converted model, as PyTorch's files."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from safetensors.numpy import save_file

from convert.to_jax import Dtype, check_new
from instantid_jax.atomic import new_folder
from instantid_jax.checkpoint import open_model
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Params
from instantid_jax.weights import names

# What diffusers, and safetensors under it, writes into every file.
METADATA = {"format": "pt"}


def to_torch(model: tyro.conf.Positional[Path], output: Path, dtype: Dtype | None = None) -> None:
    """Writes InstantID's ip-adapter.safetensors and ControlNetModel/, as diffusers loads them.

    Args:
      model: a folder made by to-jax.
      output: the folder to make.
      dtype: of all weights; None keeps each tensor's own.
    """
    check_new(output)
    parts = open_model(model).components
    kept = None if dtype is None else jnp.dtype(dtype)
    with new_folder(output) as folder:
        image_proj = parts["image_proj"]
        adapter = {
            "image_proj": _torch_tensors(image_proj.load(None), kept),
            "ip_adapter": cast(names.adapter_to_torch(parts["ip_adapter"].load(None)), kept),
        }
        tensors = {
            f"{half}.{name}": tensor
            for half, part in adapter.items()
            for name, tensor in part.items()
        }
        save_tensors(tensors, folder / "ip-adapter.safetensors")
        dim_head = image_proj.network.config.dim_head
        if dim_head != ResamplerConfig.dim_head:
            write_json(folder / "config.json", {"dim_head": dim_head})
        del adapter, tensors

        identitynet = folder / "ControlNetModel"
        identitynet.mkdir()
        write_json(identitynet / "config.json", parts["controlnet"].settings)
        save_tensors(
            _torch_tensors(parts["controlnet"].load(None), kept),
            identitynet / "diffusion_pytorch_model.safetensors",
        )
    print(output)


def _torch_tensors(params: Params, dtype: np.dtype | None) -> dict[str, np.ndarray]:
    """As `names.to_torch`, but takes each parameter away as it is converted."""
    tensors = {}
    for name in list(params):
        tensors |= cast(names.to_torch({name: params.pop(name)}), dtype)
    return tensors


def cast(tensors: dict[str, np.ndarray], dtype: np.dtype | None) -> dict[str, np.ndarray]:
    """The tensors in a dtype; None keeps each one's own.

    Raises:
      InputError: if a number is too large for it.
    """
    if dtype is None:
        return tensors
    converted = {}
    for name, tensor in tensors.items():
        try:
            with np.errstate(over="raise"):
                converted[name] = tensor.astype(dtype)
        except FloatingPointError as error:
            raise InputError(
                f"{name} holds numbers too large for {dtype}: choose bfloat16 or float32"
            ) from error
    return converted


def save_tensors(tensors: Mapping[str, np.ndarray | jax.Array], path: Path) -> None:
    """Writes a safetensors file byte for byte as diffusers does."""
    save_file(tensors, path, METADATA)
    # safetensors makes it readable for its owner alone.
    path.chmod(path.parent.stat().st_mode & 0o666)
