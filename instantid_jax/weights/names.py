"""Conversion between PyTorch's names and layouts and ours, strict in both directions.

Our attributes are named as in diffusers and transformers, so one table of leaves covers most of it.
The rest is the order of the adapter's layers, and older names.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import jax
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.params import mismatches
from instantid_jax.weights.tensors import FLOAT8, FLOATS, Tensors

Value = TypeVar("Value")

# (our leaf, its rank) -> (torch's leaf, axes of the torch tensor that give ours).
LEAVES = {
    ("kernel", 4): ("weight", (2, 3, 1, 0)),  # OIHW -> HWIO
    ("kernel", 2): ("weight", (1, 0)),  # [out, in] -> [in, out]
    ("scale", 1): ("weight", (0,)),
    ("embedding", 2): ("weight", (0, 1)),
    ("bias", 1): ("bias", (0,)),
}


def torch_name(name: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """Returns torch's name of our parameter, and the axes of the torch tensor that give ours.

    A leaf not in the table (the Resampler's `latents`) keeps its name and layout.
    """
    prefix, dot, leaf = name.rpartition(".")
    torch_leaf, axes = LEAVES.get((leaf, rank), (leaf, tuple(range(rank))))
    return f"{prefix}{dot}{torch_leaf}", axes


def to_jax(tensors: Tensors, shapes: Mapping[str, jax.ShapeDtypeStruct], what: str) -> Tensors:
    """Renames and transposes torch tensors into the parameters that a network expects.

    Args:
      tensors: keyed by torch's names.
      shapes: our parameters, `Network.shapes` or a part of it.
      what: name and origin of the tensors, for messages.
    Returns:
      Lazy tensors keyed by our names, in our layouts and the file's dtypes; of float8, float16,
      which has all its values.
    Raises:
      InputError: if tensors are missing, unexpected, of another shape, or of an unsupported
        dtype. The message lists the first three kinds.
    """
    rules = {name: torch_name(name, len(want.shape)) for name, want in shapes.items()}
    wanted = {
        torch: tuple(shapes[name].shape[axes.index(i)] for i in range(len(axes)))
        for name, (torch, axes) in rules.items()
    }
    faults = mismatches(wanted, {name: tensor.shape for name, tensor in tensors.items()})
    if faults:
        raise InputError(f"{what} does not fit: {'; '.join(faults)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in (*FLOATS, *FLOAT8):
            raise InputError(
                f"{what}: {name} is stored as {tensor.dtype}, "
                "expected float32, float16 or bfloat16; save it again in one of these"
            )
    ours = {name: tensors[torch].transpose(axes) for name, (torch, axes) in rules.items()}
    wide = np.dtype(np.float16)
    return {n: t.astype(wide) if t.dtype in FLOAT8 else t for n, t in ours.items()}


def to_torch(params: Mapping[str, jax.Array | np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `to_jax`: torch's names and layouts, contiguous, dtypes kept."""
    tensors = {}
    for name, value in params.items():
        torch, axes = torch_name(name, value.ndim)
        tensors[torch] = np.ascontiguousarray(np.asarray(value).transpose(np.argsort(axes)))
    return tensors


# -- the adapter ----------------------------------------------------------------------------------


def adapter_layers(unet_names: list[str]) -> list[str]:
    """The UNet's decoupled cross-attentions, in the order of the adapter file.

    The file counts torch's attention processors as they are registered: down blocks, up blocks,
    and the middle block last. Self-attentions take the even numbers, so the i-th is 2 i + 1.
    """
    suffix = ".to_k_ip.kernel"
    found = [name.removesuffix(suffix) for name in unet_names if name.endswith(suffix)]

    def order(layer: str) -> tuple[int, ...]:
        parts = layer.split(".")
        stage = ("down_blocks", "up_blocks", "mid_block").index(parts[0])
        return (stage, *(int(part) for part in parts if part.isdigit()))

    return sorted(found, key=order)


def adapter_to_jax(
    tensors: Tensors, shapes: Mapping[str, jax.ShapeDtypeStruct], what: str
) -> Tensors:
    """Renames the adapter's keys and values (`1.to_k_ip.weight`, ...) to the UNet's names.

    Args:
      tensors: the tensors under `ip_adapter` in the file.
      shapes: the UNet's `to_k_ip` and `to_v_ip` kernels.
    """
    numbered = _numbered(list(shapes))
    numbered_shapes = {number: shapes[name] for name, number in numbered.items()}
    converted = to_jax(tensors, numbered_shapes, what)
    return {name: converted[number] for name, number in numbered.items()}


def adapter_to_torch(params: Mapping[str, jax.Array | np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `adapter_to_jax`."""
    numbered = _numbered(list(params))
    return to_torch({number: params[name] for name, number in numbered.items()})


def _numbered(names: list[str]) -> dict[str, str]:
    return {
        f"{layer}.{leaf}.kernel": f"{2 * i + 1}.{leaf}.kernel"
        for i, layer in enumerate(adapter_layers(names))
        for leaf in ("to_k_ip", "to_v_ip")
    }


# -- older names ----------------------------------------------------------------------------------


def text_encoder_names(tensors: Tensors) -> Tensors:
    """Renames text encoder tensors as in the published files.

    Some versions of transformers write CLIPTextModel without its `text_model.` prefix, and older
    ones write the position ids, a range, as a buffer. Whole CLIP models leave their logit scale.
    """
    named = {}
    for name, tensor in tensors.items():
        if name.endswith(("position_ids", "logit_scale")):
            continue
        has_prefix = name.startswith(("text_model.", "text_projection."))
        named[name if has_prefix else f"text_model.{name}"] = tensor
    return named


# Moving averages of weights, as training programs write them next to the weights themselves:
# model_ema.a.weight, ema.a.weight, a.weight_ema.
AVERAGE = re.compile(r"(^|\.)(\w*_ema|ema(_\w+)?)(\.|$)")


def without_averages(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Leaves out moving averages, unless there is nothing else."""
    kept = {name: value for name, value in tensors.items() if not AVERAGE.search(name)}
    return kept or dict(tensors)


# The parts of an adapter in IP-Adapter's training programs, which save their UNet, too.
TRAINED_ADAPTER = {"image_proj_model.": "image_proj.", "adapter_modules.": "ip_adapter."}


def adapter_names(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Renames an adapter that a training program saved as in published files.

    Source: tencent-ailab/IP-Adapter, tutorial_train_sdxl.py: `adapter_modules` are the UNet's
    attention processors, in the order whose numbers published files have.
    """
    if not any(name.startswith(tuple(TRAINED_ADAPTER)) for name in tensors):
        return dict(tensors)
    renamed = {}
    for name, value in tensors.items():
        for theirs, published in TRAINED_ADAPTER.items():
            if name.startswith(theirs):
                name = published + name.removeprefix(theirs)
        if not name.startswith("unet."):
            renamed[name] = value
    return renamed


# The VAE's attentions in diffusers before 0.17 -> today.
VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae_names(tensors: Tensors) -> Tensors:
    """Renames older attentions of the VAE; turns their 1x1 convolutions into matrices."""
    named = {}
    for name, tensor in tensors.items():
        prefix, attention, rest = name.partition(".attentions.0.")
        part, _, leaf = rest.rpartition(".")
        if attention:
            name = f"{prefix}{attention}{VAE_ATTENTION.get(part, part)}.{leaf}"
            if tensor.shape[2:] == (1, 1):
                tensor = tensor.reshape(tensor.shape[:2])
        named[name] = tensor
    return named
