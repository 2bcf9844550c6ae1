"""`python -m convert to-torch`: writes InstantID from a run or converted model as PyTorch files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from safetensors import SafetensorError
from safetensors.numpy import save_file

from convert.diffusers_settings import diffusers_settings
from convert.to_jax import Dtype, check_new
from instantid_jax.atomic import new_folder
from instantid_jax.checkpoint import open_model
from instantid_jax.components import Component, component_shapes
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Network, Params
from instantid_jax.runs.folder import is_run
from instantid_jax.runs.recognizers import named_recognizer
from instantid_jax.runs.trained import open_trained
from instantid_jax.runs.trained_lora import read_trained_lora, trains_lora
from instantid_jax.weights import names
from instantid_jax.weights.lora.merging import Merge, find_merge
from instantid_jax.weights.lora.sources import parse_loras
from instantid_jax.weights.lora.spellings import PARTS

logger = logging.getLogger(__name__)

# The metadata that diffusers writes into every file, and its name of a LoRA's.
METADATA = {"format": "pt"}
LORA_FILE = "pytorch_lora_weights.safetensors"


class Source(NamedTuple):
    """The source of the InstantID weights.

    Attributes:
      settings: the ControlNet's `config.json`.
      load: reads "image_proj", "ip_adapter" or "controlnet" with unchanged dtypes.
    """

    image_proj: Network
    controlnet: Network
    settings: Mapping[str, Any]
    load: Callable[[str], Params]


def to_torch(
    source: tyro.conf.Positional[Path],
    output: Path,
    raw: bool = False,
    step: int | None = None,
    dtype: Dtype | None = None,
    merge_loras: tuple[str, ...] = (),
) -> None:
    """Writes InstantID's ip-adapter.safetensors and ControlNetModel/, as diffusers loads them.

    With LoRAs, also SDXL's UNet and text encoders with these merged. A distillation gives the
    LoRA that it trained.

    Args:
      source: the folder of a training run, or one made by to-jax.
      output: the folder to create.
      raw: for a training run, take the parameters even if there is a moving average.
      step: for a training run, the step of the checkpoint; None takes the newest.
      dtype: dtype of all weights; None keeps each tensor's dtype.
      merge_loras: LoRAs to merge, each as --lora of `instantid generate`, file:0.8 for instance;
        the source must be made by to-jax.
    """
    check_new(output)
    write_torch(source, output, raw=raw, step=step, dtype=dtype, loras=merge_loras)
    print(output)


def write_torch(
    source: Path,
    output: Path,
    *,
    raw: bool = False,
    step: int | None = None,
    dtype: Dtype | None = None,
    loras: Sequence[str] = (),
) -> None:
    """Writes a new folder; see `to_torch`."""
    if trains_lora(source):
        _write_lora(source, output, raw, step, dtype, loras)
        return
    found = _open(source, raw, step)
    merge = _find_merge(source, loras)
    kept = None if dtype is None else jnp.dtype(dtype)
    with new_folder(output) as folder:
        adapter = {
            "image_proj": _torch_tensors(found.load("image_proj"), kept),
            "ip_adapter": cast(names.adapter_to_torch(found.load("ip_adapter")), kept),
        }
        tensors = {
            f"{half}.{name}": tensor
            for half, part in adapter.items()
            for name, tensor in part.items()
        }
        save_tensors(tensors, folder / "ip-adapter.safetensors")
        config: dict[str, Any] = dict(named_recognizer(str(source)))
        dim_head = found.image_proj.config.dim_head
        if dim_head != ResamplerConfig.dim_head:
            config["dim_head"] = dim_head
        if config:
            write_json(folder / "config.json", config)
        del adapter, tensors

        identitynet = folder / "ControlNetModel"
        identitynet.mkdir()
        settings = diffusers_settings(found.settings, found.controlnet.config)
        write_json(identitynet / "config.json", {"_class_name": "ControlNetModel", **settings})
        save_tensors(
            _torch_tensors(found.load("controlnet"), kept),
            identitynet / "diffusion_pytorch_model.safetensors",
        )
        if merge is not None:
            _write_merged(merge, open_model(source).components, folder, kept)


def _write_lora(
    source: Path,
    output: Path,
    raw: bool,
    step: int | None,
    dtype: Dtype | None,
    loras: Sequence[str],
) -> None:
    _find_merge(source, loras)
    factors = read_trained_lora(source, raw=raw, step=step)
    with new_folder(output) as folder:
        kept = None if dtype is None else jnp.dtype(dtype)
        save_tensors(cast(factors, kept), folder / LORA_FILE)


def _find_merge(source: Path, loras: Sequence[str]) -> Merge | None:
    if not loras:
        return None
    if is_run(source):
        raise InputError(
            f"--merge-loras with {source}, which has no UNet to merge them into: give a model that "
            "to-jax made"
        )
    merge = find_merge(parse_loras(loras), open_model(source).components)
    for embedding in merge.embeddings:
        logger.warning(
            "%s also has the textual inversion %s, which merged networks cannot hold: give the "
            "file as --embedding, too",
            embedding.source,
            embedding.name,
        )
    return merge


def _write_merged(
    merge: Merge, components: Mapping[str, Component], folder: Path, dtype: jnp.dtype | None
) -> None:
    """Writes SDXL's networks that LoRAs can change, as diffusers and transformers load them."""
    for part in PARTS:
        component = components[part]
        settings: Mapping[str, Any] = component.settings
        if part == "unet":
            settings = diffusers_settings(settings, component.network.config)
            settings = {"_class_name": "UNet2DConditionModel", **settings}
        stem = "diffusion_pytorch_model" if part == "unet" else "model"
        names_of_part = list(component_shapes(part, component.network))
        params: Params = {}
        for group in merge.load(component, part, dtype, names_of_part):
            params |= group
        (folder / part).mkdir()
        write_json(folder / part / "config.json", settings)
        save_tensors(_torch_tensors(params, None), folder / part / f"{stem}.safetensors")


def _open(source: Path, raw: bool, step: int | None) -> Source:
    if is_run(source):
        trained = open_trained(source, raw=raw, step=step)
        return Source(
            trained.networks["image_proj"],
            trained.networks["controlnet"],
            trained.settings["controlnet"],
            trained.load,
        )
    if raw or step is not None:
        raise InputError(
            f"{'--raw' if raw else f'--step {step}'} with {source}, which is not a training run's "
            "folder: leave it out, or pass such a folder"
        )
    parts = open_model(source).components
    return Source(
        parts["image_proj"].network,
        parts["controlnet"].network,
        parts["controlnet"].settings,
        lambda part: parts[part].load(None),
    )


def _torch_tensors(params: Params, dtype: np.dtype | None) -> dict[str, np.ndarray]:
    """As `names.to_torch`, but removes each parameter once it is converted."""
    tensors = {}
    for name in list(params):
        tensors |= cast(names.to_torch({name: params.pop(name)}), dtype)
    return tensors


def cast(tensors: dict[str, np.ndarray], dtype: np.dtype | None) -> dict[str, np.ndarray]:
    """Casts tensors; None keeps each tensor's dtype.

    Raises:
      InputError: if a value is too large for the dtype.
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
                f"{name} has values too large for {dtype}: choose bfloat16 or float32"
            ) from error
    return converted


def save_tensors(tensors: Mapping[str, np.ndarray | jax.Array], path: Path) -> None:
    """Writes a safetensors file identical to one by diffusers.

    Raises:
      InputError: if it cannot be written, as on a full disk.
    """
    try:
        save_file(tensors, path, METADATA)
    except SafetensorError as error:
        raise InputError(
            f"{path.name} cannot be written ({error}): make room, then rerun"
        ) from error
    # safetensors makes the file readable only by its owner.
    path.chmod(path.parent.stat().st_mode & 0o666)
