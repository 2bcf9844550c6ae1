"""Reads a LoRA file, strictly: every tensor in it has to be understood."""

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.weights.identify import BUNDLED, kind_of
from instantid_jax.weights.lora.forms import Form, MisfitError, form_of, normalized
from instantid_jax.weights.lora.spellings import PREFIXES, Target
from instantid_jax.weights.selection import PEFT_CONFIG
from instantid_jax.weights.tensors import FLOAT8, FLOATS, LazyTensor
from instantid_jax.weights.torch_files import TensorFile, open_tensors

# Ends of names -> role. PEFT may put the adapter's name before the last part.
LEAVES = {
    r"lora_down\.weight": "lora_down",
    r"lora_up\.weight": "lora_up",
    r"lora_mid\.weight": "lora_mid",
    r"lora_A\.(\w+\.)?weight": "lora_down",
    r"lora_B\.(\w+\.)?weight": "lora_up",
    r"lora_B\.(\w+\.)?bias": "up_bias",
    r"lora_magnitude_vector(\.\w+)*": "magnitudes",
    r"(lora_linear_layer\.|lora\.)?down\.weight": "lora_down",
    r"(lora_linear_layer\.|lora\.)?up\.weight": "lora_up",
    r"hada_(w[12]_[ab]|t[12])": None,
    r"lokr_(w[12](_[ab])?|t2)": None,
    r"dora_scale": "dora_scale",
    r"alpha": "alpha",
    r"diff": "diff",
    r"w_norm": "diff",
    r"diff_b|b_norm": "bias",
}
_LEAF = re.compile(r"(?P<module>.+?)\.(?P<leaf>" + "|".join(f"(?:{leaf})" for leaf in LEAVES) + ")")
# Ends of names in files of other methods.
OTHERS = {
    r"\.[ab][12]\.weight": "GLoRA",
    r"\.on_input": "IA3",
    r"\.oft_(blocks|diag)": "OFT",
    r"\.oft_R\.(\w+\.)?weight": "OFT",
}
# Roles that make no difference of their own.
_EXTRAS = ("alpha", "dora_scale", "magnitudes", "bias", "up_bias")
_FLOATS = (*FLOATS, *FLOAT8, np.dtype(np.float64))
_PEFT = "base_model.model."
# PEFT's settings in the metadata of diffusers' files.
METADATA = "lora_adapter_metadata"


@dataclasses.dataclass(frozen=True)
class Layer:
    """The changes of a file to one layer.

    Attributes:
      form: how the factors make the weight's difference; None if only the bias changes.
      factors: by role.
      scale: factor of the difference, alpha / rank.
      magnitudes: of DoRA, and the axis that they scale.
      bias: differences of the bias, each with its scale.
      where: the file and the layer's name there, for messages.
    """

    target: Target
    form: Form | None
    factors: Mapping[str, LazyTensor]
    scale: float
    magnitudes: tuple[LazyTensor, int] | None
    bias: tuple[tuple[LazyTensor, float], ...]
    where: str

    def difference(self, dtype: np.dtype, strength: float = 1.0) -> np.ndarray:
        """The scaled difference of the weight, in its shape and torch's layout."""
        assert self.form is not None
        factors = {role: self._read(tensor, dtype) for role, tensor in self.factors.items()}
        found = self.form.difference(factors).reshape(self.target.shape)
        # In place: weights are large.
        found *= self.scale * strength
        return found

    def decomposed(self, weight: np.ndarray) -> np.ndarray:
        """DoRA's weight instead of `weight`, both in torch's layout."""
        assert self.magnitudes is not None
        tensor, axis = self.magnitudes
        adapted = weight + self.difference(weight.dtype)
        return normalized(adapted, self._read(tensor, weight.dtype), axis)

    def bias_difference(self, dtype: np.dtype) -> np.ndarray:
        """The difference of the bias, [out]."""
        parts = [scale * self._read(tensor, dtype).ravel() for tensor, scale in self.bias]
        return np.sum(parts, axis=0)

    def _read(self, tensor: LazyTensor, dtype: np.dtype) -> np.ndarray:
        value = tensor.read().astype(dtype)
        if not np.isfinite(value).all():
            raise InputError(f"{self.where} has values that are not finite: fetch the file again")
        return value


def read_lora(path: Path, known: Mapping[str, Target]) -> list[Layer]:
    """The layers that a LoRA changes; reads names, shapes and alphas, no factors.

    Args:
      known: layers by all their names, of `spellings`.
    Raises:
      InputError: if the file is not a LoRA, belongs to another model, or has an unknown tensor.
    """
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    if kind.part != "lora":
        raise InputError(f"{path} is {kind.phrase}: expected a LoRA of SDXL")
    found, unknown = _grouped(file, known)
    if unknown or not found:
        raise _not_understood(path, unknown)
    peft = _peft_settings(file)
    layers = [_layer(file, spelling, known, roles, peft) for spelling, roles in found.items()]
    taken: dict[Target, str] = {}
    for spelling, layer in zip(found, layers, strict=True):
        other = taken.setdefault(layer.target, spelling)
        if other != spelling:
            raise InputError(
                f"{path} changes one layer twice, as {other} and as {spelling}: remove one of them"
            )
    return layers


def _grouped(
    file: TensorFile, known: Mapping[str, Target]
) -> tuple[dict[str, dict[str, LazyTensor]], list[str]]:
    """Tensors by the layer's name and role, and the names that are not understood."""
    found: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
    unknown = []
    numbers = {
        name: LazyTensor((), np.dtype(np.float32), lambda value=value: np.array(value, np.float32))
        for name, value in file.metadata.items()
        if name.endswith(".alpha") and isinstance(value, int | float)
    }
    for name, tensor in (file.tensors | numbers).items():
        match = _LEAF.fullmatch(name.removeprefix(_PEFT))
        if name.startswith(BUNDLED):
            continue  # See weights/embeddings.py.
        if match is None or match["module"] not in known:
            unknown.append(name)
        else:
            roles = found[match["module"]]
            role = _role(match["leaf"])
            if role in roles:
                raise InputError(f"{file.path} has several tensors like {name}: keep one of them")
            if tensor.dtype not in _FLOATS and role != "alpha":
                raise InputError(
                    f"{file.path}: {name} is stored as {tensor.dtype}, expected float32, float16 "
                    "or bfloat16; save it again in one of these"
                )
            roles[role] = tensor
    return found, unknown


def _role(leaf: str) -> str:
    for pattern, role in LEAVES.items():
        if re.fullmatch(pattern, leaf):
            return role or leaf
    raise AssertionError(leaf)


def _layer(
    file: TensorFile,
    spelling: str,
    known: Mapping[str, Target],
    roles: Mapping[str, LazyTensor],
    peft: Mapping[str, Any],
) -> Layer:
    target, where = known[spelling], f"{file.path}: {spelling}"
    factors = {role: tensor for role, tensor in roles.items() if role not in _EXTRAS}
    form = None
    if factors or not roles.keys() & {"bias"}:
        try:
            form = form_of({role: tensor.shape for role, tensor in factors.items()})
        except MisfitError as error:
            raise InputError(f"{where}: {error}; fetch the file again") from error
        if _flat(form.shape) != _flat(target.shape):
            raise InputError(
                f"{where} changes a weight of {list(form.shape)}, but this model's is "
                f"{list(target.shape)}: expected a LoRA of this model"
            )
    try:
        scale = 1.0 if form is None else _scale(form, target, roles.get("alpha"), peft)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise InputError(f"{where} has an alpha that is not a number ({error})") from error
    bias = [
        (roles[role], times) for role, times in (("bias", 1.0), ("up_bias", scale)) if role in roles
    ]
    for tensor, _ in bias:
        if target.bias is None or tensor.shape != (target.shape[0],):
            raise InputError(
                f"{where} changes a bias of {list(tensor.shape)}, but this model's layer has "
                f"{'none' if target.bias is None else f'one of [{target.shape[0]}]'}"
            )
    return Layer(
        target, form, factors, scale, _magnitudes(target, roles, where), tuple(bias), where
    )


def _scale(form: Form, target: Target, alpha: LazyTensor | None, peft: Mapping[str, Any]) -> float:
    """alpha / rank.

    Without an alpha it is 1, and so it is for an alpha of 0, which trainers take for the rank.
    """
    if form.rank is None:
        return 1.0
    settings = peft.get(target.part)
    if settings is not None:
        found = _peft_alpha(settings, target.weight.rpartition(".")[0])
        divisor = math.sqrt(form.rank) if settings.get("use_rslora") else form.rank
        return found / divisor
    value = 0.0 if alpha is None else float(np.asarray(alpha.read(), np.float64).reshape(()))
    return value / form.rank if value else 1.0


def _peft_settings(file: TensorFile) -> dict[str, dict[str, Any]]:
    """PEFT's settings of each part: from the file's metadata, or from the folder's file."""
    text = file.metadata.get(METADATA)
    config = file.path.parent / PEFT_CONFIG
    if text is None and file.path.name.startswith("adapter_model.") and config.is_file():
        settings = read_json(config)
        return dict.fromkeys(PREFIXES, settings) if "lora_alpha" in settings else {}
    try:
        whole = json.loads(text or "{}")
        parts: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, value in whole.items():
            part, _, setting = name.partition(".")
            parts[part][setting] = value
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{file.path}: its metadata {METADATA} are not PEFT's settings ({error})"
        ) from error
    return {part: settings for part, settings in parts.items() if "lora_alpha" in settings}


def _peft_alpha(settings: Mapping[str, Any], module: str) -> float:
    """The alpha of a module; patterns match the end of its name, as in PEFT."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(alpha)
    return float(settings["lora_alpha"])


def _magnitudes(
    target: Target, roles: Mapping[str, LazyTensor], where: str
) -> tuple[LazyTensor, int] | None:
    """DoRA's magnitudes and the axis that they scale.

    PEFT has one per output. LyCORIS has one per output as [out, 1, ...], in older versions one per
    input as [1, in, ...].
    """
    tensor = roles.get("magnitudes", roles.get("dora_scale"))
    if tensor is None:
        return None
    if len(target.shape) < 2:
        raise InputError(f"{where} has DoRA magnitudes of a norm: expected those of a weight")
    per_input = "magnitudes" not in roles and len(tensor.shape) > 1 and tensor.shape[0] == 1
    axis = 1 if per_input and target.shape[0] != 1 else 0
    if math.prod(tensor.shape) != target.shape[axis]:
        raise InputError(
            f"{where} has DoRA magnitudes {list(tensor.shape)}, expected {target.shape[0]} or "
            f"{target.shape[1]} for a weight of {list(target.shape)}"
        )
    return tensor, axis


def _not_understood(path: Path, unknown: Sequence[str]) -> InputError:
    for pattern, method in OTHERS.items():
        if any(re.search(f"{pattern}$", name) for name in unknown):
            return InputError(f"{path} is made by {method}, which is not supported; give a LoRA")
    listed = f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}"
    return InputError(
        f"{path} has {len(unknown)} tensors that belong to no layer of this model ({listed}): "
        "expected a LoRA of SDXL"
    )


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """Kernels of 1 x 1 and matrices are the same, and so are joined axes."""
    return shape[0], math.prod(shape[1:])
