"""What lies where: SDXL, InstantID, ControlNets and VAEs, in folders, single files, on the hub."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from instantid_jax.components import Component, Model, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import Network, Params
from instantid_jax.weights import names, original, sdxl_base, selection
from instantid_jax.weights.hub import folder_of
from instantid_jax.weights.identify import identify
from instantid_jax.weights.tensors import Tensors
from instantid_jax.weights.torch_files import TensorFile, open_tensors

SDXL_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def find_model(
    sdxl: str,
    instantid: str,
    *,
    controlnets: Sequence[str] = (),
    vae: str | None = None,
    tokenizers: str | None = None,
    variant: str | None = None,
) -> Model:
    """Finds all parts of a model in PyTorch's files; reads configurations and names, not weights.

    The arguments are `InstantIDPipeline.load`'s.

    Raises:
      InputError: if something is missing, damaged, another thing than expected, or does not fit.
    """
    if Path(sdxl).is_file():
        parts, scheduler, tokenizer_folders = _single_file(Path(sdxl), tokenizers)
        force_zeros = True
    else:
        folder = folder_of(sdxl, lambda files: selection.sdxl_files(files, variant))
        parts = {
            name: _diffusers_part(
                folder, name, name, functools.partial(selection.weights_in, variant=variant)
            )
            for name in SDXL_PARTS
        }
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        tokenizer_folders = (folder / "tokenizer", folder / "tokenizer_2")
        index = folder / "model_index.json"
        settings = read_json(index) if index.is_file() else {}
        force_zeros = bool(settings.get("force_zeros_for_empty_prompt", True))
    parts |= find_instantid(instantid, parts["unet"].network, variant=variant)
    model = Model(parts, scheduler, tokenizer_folders, force_zeros)
    return add_parts(model, controlnets, vae, variant=variant)


def add_parts(
    model: Model, controlnets: Sequence[str], vae: str | None, *, variant: str | None = None
) -> Model:
    """The model with further ControlNets behind its own, and another VAE where one is named."""
    parts = dict(model.components)
    first = len(model.controlnets) - 1
    for i, source in enumerate(controlnets, start=first):
        parts[f"controlnets.{i}"] = find_network(source, "controlnet", variant=variant)
    if vae is not None:
        parts["vae"] = find_network(vae, "vae", variant=variant)
    return dataclasses.replace(model, components=parts)


def find_instantid(
    source: str, unet: Network, *, variant: str | None = None
) -> dict[str, Component]:
    """The adapter's two halves and IdentityNet, from a folder or a hub id.

    Args:
      unet: whose cross-attentions the adapter extends.
    """
    prefer = _preferring(variant)
    folder = folder_of(source, functools.partial(prefer, selection.instantid_files))
    adapter = (
        folder
        / prefer(
            functools.partial(selection.weights_in, folder="", stems=("ip-adapter",)),
            selection.list_folder(folder),
        )[0]
    )
    file = open_tensors(adapter)
    halves = {
        half: {
            name.removeprefix(f"{half}."): tensor
            for name, tensor in file.tensors.items()
            if name.startswith(f"{half}.")
        }
        for half in ("image_proj", "ip_adapter")
    }
    if sum(map(len, halves.values())) < len(file.tensors) or "latents" not in halves["image_proj"]:
        raise InputError(f"{adapter} is {identify(file.tensors)}: expected an InstantID adapter")
    config = adapter.parent / "config.json"
    dim_head = read_json(config).get("dim_head", 64) if config.is_file() else 64
    resampler = ResamplerConfig.from_shapes(
        {name: tensor.shape for name, tensor in halves["image_proj"].items()}, dim_head
    )
    image_proj = network("image_proj", settings := vars(resampler))
    return {
        "image_proj": _component(
            "image_proj", image_proj, settings, halves["image_proj"], str(adapter)
        ),
        "ip_adapter": _component("ip_adapter", unet, {}, halves["ip_adapter"], str(adapter)),
        "controlnet": _diffusers_part(
            folder, "ControlNetModel", "controlnet", _weights_preferring(variant)
        ),
    }


def find_network(source: str, name: str, *, variant: str | None = None) -> Component:
    """One network published alone: `config.json` and weights in a folder, or a hub id.

    Args:
      name: "controlnet", "vae" or another key of `CLASSES`.
    """
    folder = folder_of(source, functools.partial(_preferring(variant), selection.model_files))
    return _diffusers_part(folder, "", name, _weights_preferring(variant))


def read_params(tensors: Tensors, dtype: jnp.dtype | None) -> Params:
    """Reads lazy tensors in our layout onto the default device, one after the other.

    Args:
      dtype: of the result; None keeps each tensor's own.
    """
    params = {}
    for name, tensor in tensors.items():
        value = tensor.read()
        params[name] = jnp.asarray(value if dtype is None else value.astype(dtype, copy=False))
    return params


def _component(
    name: str, net: Network, settings: Mapping[str, Any], tensors: Tensors, source: str
) -> Component:
    """A component whose tensors bear torch's names, checked against the network now."""
    convert = names.adapter_to_jax if name == "ip_adapter" else names.to_jax
    try:
        ours = convert(tensors, component_shapes(name, net), f"{name} ({source})")
    except InputError as error:
        raise InputError(f"{error}; it is {identify(tensors)}") from error
    return Component(net, settings, functools.partial(read_params, ours), source)


def _preferring(variant: str | None) -> Callable[..., list[str]]:
    """Calls a selection for `variant` and, where that is not there, without.

    `variant` speaks of SDXL; adapters and ControlNets are often published in one form alone.
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
    tensors = dict(file.tensors)
    if name in ("text_encoder", "text_encoder_2"):
        tensors = names.text_encoder_names(tensors)
    elif name == "vae":
        tensors = names.vae_names(tensors)
    _refuse_other_class(name, settings, place)
    return _component(name, network(name, settings), settings, tensors, str(file.path))


CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "controlnet": ("ControlNetModel",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


def _refuse_other_class(name: str, settings: Mapping[str, Any], place: Path) -> None:
    """Refuses a folder whose `config.json` says it is of another class."""
    said = settings.get("_class_name") or next(iter(settings.get("architectures") or ()), None)
    if said is not None and said not in CLASSES[name]:
        raise InputError(f"{place} holds a {said}: expected a {CLASSES[name][0]}")


def _single_file(
    path: Path, tokenizers: str | None
) -> tuple[dict[str, Component], dict[str, Any], tuple[Path, Path]]:
    """The parts of a checkpoint in the original layout, which takes SDXL base's configuration."""
    file = open_tensors(path)
    found = identify(file.tensors)
    if not found.startswith("an SDXL checkpoint"):
        raise InputError(f"{path} is {found}: expected an SDXL checkpoint in the original layout")
    parts = {}
    for name in SDXL_PARTS:
        settings = sdxl_base.SETTINGS[name]
        parts[name] = single_file_part(name, network(name, settings), settings, file)
    scheduler = sdxl_base.SCHEDULER | original.prediction_settings(file.tensors, file.metadata)
    folder = folder_of(tokenizers or sdxl_base.HUB_ID, selection.tokenizer_files)
    return parts, scheduler, (folder / "tokenizer", folder / "tokenizer_2")


def single_file_part(
    name: str, net: Network, settings: Mapping[str, Any], file: TensorFile
) -> Component:
    """One network out of a single file."""
    shapes: dict[str, jax.ShapeDtypeStruct] = net.shapes
    if name == "unet":
        shapes = component_shapes("unet", net)
    tensors = original.select(name, file.tensors, shapes, net.config)
    if name == "vae":
        tensors = names.vae_names(tensors)
    return _component(name, net, settings, tensors, str(file.path))
