"""Finds SDXL, InstantID, ControlNets and VAEs in folders, single files and hub repositories."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import BaseSource, Component, ModelSource, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Network, Params
from instantid_jax.request.checks import check_number
from instantid_jax.weights import names, original, sdxl_base, selection
from instantid_jax.weights.hub import Select, file_of, folder_of, split_id
from instantid_jax.weights.identify import identify, kind_of
from instantid_jax.weights.tensors import Tensors
from instantid_jax.weights.torch_files import TensorFile, open_tensors

SDXL_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
# Overrides SDXL's sampling defaults in a model's folder: {"guidance_scale": 2.0}.
DEFAULTS = "defaults.json"
UNET_PREFIX = original.PREFIXES["unet"]


def find_instantid(
    source: str, unet: Network | None, *, variant: str | None = None
) -> dict[str, Component]:
    """The adapter's two halves and IdentityNet, from a folder or a hub id.

    Args:
      unet: the UNet whose cross-attentions the adapter extends; None skips that half.
    """
    folder = _folder_of(
        source,
        functools.partial(_preferring(variant), selection.instantid_files),
        "the folder of an InstantID adapter and ControlNetModel/",
    )
    return {
        **adapter_parts(adapter_file(folder, variant), unet),
        "controlnet": _diffusers_part(
            folder, "ControlNetModel", "controlnet", _weights_preferring(variant)
        ),
    }


def find_sdxl(
    source: str, *, tokenizers: str | None = None, variant: str | None = None
) -> BaseSource:
    """SDXL from a folder, a single file or a hub id; reads configurations and names, not weights.

    The arguments are those of `pipeline.sources.Sources`.

    Raises:
      InputError: if something is missing, damaged, or of another kind than expected.
    """
    if Path(source).is_file():
        return BaseSource(*_single_file(Path(source), tokenizers))
    try:
        folder = folder_of(source, lambda files: selection.sdxl_files(files, variant))
    except InputError as error:
        found = _unet_in(Path(source))
        raise InputError(f"{error}{f'; its unet/ holds {found}' if found else ''}") from error
    parts = {
        name: _diffusers_part(
            folder, name, name, functools.partial(selection.weights_in, variant=variant)
        )
        for name in SDXL_PARTS
    }
    index = folder / "model_index.json"
    settings = read_json(index) if index.is_file() else {}
    return BaseSource(
        parts,
        read_json(folder / "scheduler" / "scheduler_config.json"),
        (folder / "tokenizer", folder / "tokenizer_2"),
        bool(settings.get("force_zeros_for_empty_prompt", True)),
        _usual_guidance(folder / DEFAULTS),
    )


def _usual_guidance(defaults: Path) -> float | None:
    """The default guidance scale in a model's folder."""
    if not defaults.is_file():
        return None
    return check_number("guidance_scale", read_json(defaults).get("guidance_scale"), 0)


def find_vae(sdxl: str, *, variant: str | None = None) -> Component:
    """SDXL's VAE alone, from any source that `find_sdxl` accepts."""
    if Path(sdxl).is_file():
        file = _original_sdxl(Path(sdxl))
        settings = sdxl_base.SETTINGS["vae"]
        return single_file_part("vae", network("vae", settings), settings, file)
    select = functools.partial(selection.model_files, folder="vae", variant=variant)
    weights_in = functools.partial(selection.weights_in, variant=variant)
    return _diffusers_part(folder_of(sdxl, select), "vae", "vae", weights_in)


def find_unet(source: str, base: Component, *, variant: str | None = None) -> Component:
    """A UNet by itself, as few-step models are published.

    Args:
      source: a file with a UNet or a whole checkpoint, a folder or hub id in diffusers' layout, or
        a hub id and the path of a file in it.
      base: the UNet that it stands for; it has the same sizes.
    """
    if Path(source).is_dir() or not (Path(source).is_file() or split_id(source)[1]):
        return find_network(source, "unet", variant=variant)
    file = open_tensors(file_of(source, selection.model_files))
    kind = kind_of(file.tensors)
    if kind.part == "unet":
        return part_of("unet", base.settings, file)
    if any(name.removeprefix(original.STATE).startswith(UNET_PREFIX) for name in file.tensors):
        return single_file_part("unet", base.network, base.settings, file)
    raise InputError(f"{file.path} is {kind.phrase}: expected {EXPECTED['unet']}")


def add_parts(
    model: ModelSource,
    controlnets: Sequence[str],
    vae: str | None,
    unet: str | None = None,
    *,
    variant: str | None = None,
) -> ModelSource:
    """The model with additional ControlNets and, if given, another VAE and another UNet."""
    parts = dict(model.components)
    first = len(model.controlnets) - 1
    for i, source in enumerate(controlnets, start=first):
        parts[f"controlnets.{i}"] = find_network(source, "controlnet", variant=variant)
    if vae is not None:
        parts["vae"] = find_network(vae, "vae", variant=variant)
    if unet is not None:
        before, parts["unet"] = parts["unet"], find_unet(unet, parts["unet"], variant=variant)
        if parts["unet"].network != before.network:
            raise InputError(f"{unet}: its UNet has other sizes than the model's: give one of SDXL")
    return dataclasses.replace(model, components=parts)


def adapter_file(folder: Path, variant: str | None = None) -> Path:
    """The adapter's file in a folder, or the index of its shards."""
    rule = functools.partial(selection.weights_in, folder="", stems=("ip-adapter",))
    return folder / _preferring(variant)(rule, selection.list_folder(folder))[0]


def adapter_parts(path: Path, unet: Network | None) -> dict[str, Component]:
    """The Resampler and, if `unet` is given, its adapter keys and values, from one file."""
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    halves = {
        half: {
            name.removeprefix(f"{half}."): tensor
            for name, tensor in file.tensors.items()
            if name.startswith(f"{half}.")
        }
        for half in ("image_proj", "ip_adapter")
    }
    if kind.part != "instantid" or sum(map(len, halves.values())) < len(file.tensors):
        raise InputError(f"{path} is {kind.phrase}: expected an InstantID adapter")
    config = path.parent / "config.json"
    dim_head = read_json(config).get("dim_head", 64) if config.is_file() else 64
    resampler = ResamplerConfig.from_shapes(
        {name: tensor.shape for name, tensor in halves["image_proj"].items()}, dim_head
    )
    settings = vars(resampler)
    net = network("image_proj", settings)
    source = str(path)
    parts = {"image_proj": _component("image_proj", net, settings, halves["image_proj"], source)}
    if unet is not None:
        parts["ip_adapter"] = _component("ip_adapter", unet, {}, halves["ip_adapter"], source)
    return parts


def find_network(source: str, name: str, *, variant: str | None = None) -> Component:
    """A network published by itself: `config.json` and weights in a folder or hub repository.

    Args:
      name: "controlnet", "vae" or another key of `CLASSES`.
    """
    folder = _folder_of(
        source,
        functools.partial(_preferring(variant), selection.model_files),
        f"the folder of {EXPECTED[name]} in diffusers' layout",
    )
    return _diffusers_part(folder, "", name, _weights_preferring(variant))


def read_params(
    tensors: Tensors, dtype: jnp.dtype | None, chosen: Collection[str] | None = None
) -> Params:
    """Reads lazy tensors in our layout onto the default device, one at a time.

    Args:
      dtype: dtype of the result; None keeps each tensor's dtype.
      chosen: names of those to read; None reads all.
    """
    params = {}
    for name in tensors if chosen is None else chosen:
        tensor = tensors[name]
        kept = tensor.dtype if dtype is None else np.dtype(dtype)
        try:
            # jnp.asarray would compile a program per shape.
            params[name] = jax.device_put(_aligned_copy(tensor.read(), kept))
        except FloatingPointError as error:
            raise InputError(
                f"{name} has values too large for {kept}: choose bfloat16 or float32"
            ) from error
    return params


def _aligned_copy(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A contiguous copy, aligned so that JAX's CPU backend adopts the memory without a copy.

    JAX copies an unaligned array, with two extra copies at the peak.

    Raises:
      FloatingPointError: if a number is too large for `dtype`.
    """
    alignment = 64
    size = value.size * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + size].view(dtype).reshape(value.shape)
    with np.errstate(over="raise"):
        copy[...] = value
    return copy


def _component(
    name: str, net: Network, settings: Mapping[str, Any], tensors: Tensors, source: str
) -> Component:
    """A component from tensors with torch's names; checks them against the network."""
    convert = names.adapter_to_jax if name == "ip_adapter" else names.to_jax
    ours = convert(tensors, component_shapes(name, net), f"{name} ({source})")
    return Component(net, settings, functools.partial(read_params, ours), source)


def _folder_of(source: str, select: Select, expected: str) -> Path:
    """As `folder_of`, but reports the kind of a file passed instead of a folder."""
    if Path(source).is_file():
        raise InputError(
            f"{source} is {identify(open_tensors(source).tensors)}: expected {expected}"
        )
    return folder_of(source, select)


def _preferring(variant: str | None) -> Callable[..., list[str]]:
    """Selects files of `variant`, or of no variant if there are none.

    `variant` refers to SDXL; adapters and ControlNets often have a single variant.
    """

    def select(rule: Callable[..., list[str]], files: Sequence[str]) -> list[str]:
        try:
            return rule(files, variant=variant)
        except InputError:
            return rule(files, variant=None)

    return select


def _weights_preferring(variant: str | None) -> Callable[[Sequence[str], str], list[str]]:
    prefer = _preferring(variant)
    return lambda files, folder: prefer(
        functools.partial(selection.weights_in, folder=folder), files
    )


def _diffusers_part(
    folder: Path, subfolder: str, name: str, weights_in: Callable[[Sequence[str], str], list[str]]
) -> Component:
    """A network in diffusers' or transformers' layout: `config.json` and weights."""
    place = folder / subfolder
    settings = read_json(place / "config.json")
    file = open_tensors(folder / weights_in(selection.list_folder(folder), subfolder)[0])
    return part_of(name, settings, file)


def part_of(name: str, settings: Mapping[str, Any], file: TensorFile) -> Component:
    """A network from its `config.json` and weights in diffusers' or transformers' layout.

    Raises:
      InputError: if they belong to another network, or do not fit each other.
    """
    kind = kind_of(file.tensors)
    # Some copies of text encoder 1 keep a projection that SDXL does not use.
    projecting = name == "text_encoder" and kind.part == "text_encoder_2"
    if kind.part != name and not projecting:
        raise InputError(f"{file.path} is {kind.phrase}: expected {EXPECTED[name]}")
    said = settings.get("_class_name") or next(iter(settings.get("architectures") or ()), None)
    if said is not None and said not in CLASSES[name]:
        raise InputError(
            f"{file.path}: its config.json describes a {said}, expected a {CLASSES[name][0]}"
        )
    tensors = dict(file.tensors)
    if name in ("text_encoder", "text_encoder_2"):
        tensors = names.text_encoder_names(tensors)
    if projecting:
        del tensors["text_projection.weight"]
        settings = {**settings, "architectures": ["CLIPTextModel"]}
    elif name == "vae":
        tensors = names.vae_names(tensors)
    try:
        net = network(name, settings)
    except InputError as error:
        raise InputError(f"{file.path} ({kind.phrase}): {error}") from error
    return _component(name, net, settings, tensors, str(file.path))


CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "controlnet": ("ControlNetModel",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


EXPECTED = {
    "unet": "an SDXL UNet",
    "vae": "a VAE",
    "controlnet": "an SDXL ControlNet",
    "text_encoder": "a CLIP text encoder without a projection",
    "text_encoder_2": "a CLIP text encoder with a projection",
}


def _unet_in(folder: Path) -> str | None:
    """The kind of weights in the `unet/` of a diffusers folder, in any variant."""
    for path in sorted((folder / "unet").glob("*.safetensors")):
        return identify(open_tensors(path).tensors)
    return None


def _single_file(
    path: Path, tokenizers: str | None
) -> tuple[dict[str, Component], dict[str, Any], tuple[Path, Path]]:
    """The parts of a checkpoint in the original layout, with SDXL base's configuration."""
    file = _original_sdxl(path)
    parts = {}
    for name in SDXL_PARTS:
        settings = sdxl_base.SETTINGS[name]
        parts[name] = single_file_part(name, network(name, settings), settings, file)
    scheduler = sdxl_base.SCHEDULER | original.prediction_settings(file.tensors, file.metadata)
    folder = folder_of(tokenizers or sdxl_base.HUB_ID, selection.tokenizer_files)
    return parts, scheduler, (folder / "tokenizer", folder / "tokenizer_2")


def _original_sdxl(path: Path) -> TensorFile:
    """The tensors of a checkpoint in the original layout."""
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    if kind.part != "sdxl":
        raise InputError(
            f"{path} is {kind.phrase}: expected an SDXL checkpoint in the original layout, or the "
            "folder of one in diffusers'"
        )
    return file


def single_file_part(
    name: str, net: Network, settings: Mapping[str, Any], file: TensorFile
) -> Component:
    """One network of a single file."""
    shapes: dict[str, jax.ShapeDtypeStruct] = net.shapes
    if name == "unet":
        shapes = component_shapes("unet", net)
    tensors = original.select(name, file.tensors, shapes, net.config)
    if name == "vae":
        tensors = names.vae_names(tensors)
    return _component(name, net, settings, tensors, str(file.path))
