"""Networks as components: their tensors and settings, from one file in any layout."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantid_jax.components import Component, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.params import Network
from instantid_jax.weights import names, original, sizes
from instantid_jax.weights.identify import Kind, kind_of
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.selection import STEMS
from instantid_jax.weights.tensors import Tensors
from instantid_jax.weights.torch_files import TensorFile

CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "refiner": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "controlnet": ("ControlNetModel",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
EXPECTED = {
    "unet": "an SDXL UNet",
    "refiner": "an SDXL refiner",
    "vae": "a VAE",
    "controlnet": "an SDXL ControlNet",
    "text_encoder": "a CLIP text encoder without a projection",
    "text_encoder_2": "a CLIP text encoder with a projection",
}
# Where files of other kinds belong.
ADVICE = {
    "sdxl": "give it as sdxl=",
    "unet": "give it as unet=",
    "refiner": "give it as refiner=",
    "vae": "give it as vae=",
    "controlnet": "give it as controlnets=",
    "lora": "give it as loras=",
    "embedding": "give it as embeddings=",
    "instantid": "give its folder as instantid=",
}


def wrong_kind(path: Path | str, kind: Kind, expected: str) -> InputError:
    """The error for a file of another kind, with where it belongs."""
    advice = ADVICE.get(kind.part or "")
    return InputError(
        f"{path} is {kind.phrase}: expected {expected}{f'; {advice}' if advice else ''}"
    )


def _may_be(kind: Kind, name: str) -> bool:
    """Whether a file is a network's; of unusual sizes, UNet and refiner look the same."""
    unusual = kind.part == "unet" and not kind.phrase.startswith("an SDXL ")
    return kind.part == name or (name == "refiner" and unusual)


def component(
    name: str, net: Network, settings: Mapping[str, Any], tensors: Tensors, source: str
) -> Component:
    """A component from tensors with torch's names; checks them against the network."""
    convert = names.adapter_to_jax if name == "ip_adapter" else names.to_jax
    ours = convert(tensors, component_shapes(name, net), f"{name} ({source})")
    return Component(net, settings, functools.partial(read_params, ours), source)


def part_of(name: str, settings: Mapping[str, Any], file: TensorFile) -> Component:
    """A network from its `config.json` and weights in diffusers' or transformers' layout.

    Raises:
      InputError: if they belong to another network, or do not fit each other.
    """
    kind = kind_of(file.tensors)
    # Some copies of text encoder 1 keep a projection that SDXL does not use.
    projecting = name == "text_encoder" and kind.part == "text_encoder_2"
    if not _may_be(kind, name) and not projecting:
        raise wrong_kind(file.path, kind, EXPECTED[name])
    said = _class_in(settings)
    if said is not None and said not in CLASSES[name]:
        raise InputError(
            f"{file.path}: its config.json describes a {said}, expected a {CLASSES[name][0]}"
        )
    prefix = original.prefix_of(name, file.tensors)
    if prefix is not None:
        return original_part(name, settings, file, prefix)
    tensors = names.without_averages(file.tensors)
    if name in ("text_encoder", "text_encoder_2"):
        tensors = names.text_encoder_names(tensors)
    if projecting:
        del tensors["text_projection.weight"]
        settings = {**settings, "architectures": ["CLIPTextModel"]}
    elif name == "vae":
        tensors = names.vae_names(tensors)
    net = _network_of(name, settings, file, kind)
    return component(name, net, settings, tensors, str(file.path))


def original_part(
    name: str, settings: Mapping[str, Any], file: TensorFile, prefix: str | None = None
) -> Component:
    """One network of a file in the original layout.

    Args:
      prefix: of `original.prefix_of`; None is that of whole checkpoints.
    """
    net = _network_of(name, settings, file, kind_of(file.tensors))
    shapes = component_shapes(name, net)
    tensors = original.select(name, file.tensors, shapes, net.config, prefix)
    if name == "vae":
        tensors = names.vae_names(tensors)
    return component(name, net, settings, tensors, str(file.path))


def file_part(name: str, file: TensorFile, settings: Mapping[str, Any] | None = None) -> Component:
    """A network in one file: in diffusers' layout, in the original one, or in a whole checkpoint.

    Args:
      settings: for a file with no `config.json` next to it, those of the model that it is for; None
        is SDXL base. What differs visibly is taken from the tensors.
    Raises:
      InputError: if the file is of another kind, or does not fit.
    """
    kind = kind_of(file.tensors)
    whole = kind.part == "sdxl" and name in ("unet", "vae")
    if not _may_be(kind, name) and not whole:
        raise wrong_kind(file.path, kind, EXPECTED[name])
    prefix = original.prefix_of(name, file.tensors)
    if whole and prefix is None:
        raise InputError(f"{file.path} is {kind.phrase} that has no VAE: expected a VAE")
    own = settings_beside(file.path, name)
    if own is not None and not whole:
        return part_of(name, own, file)
    given = sizes.base_settings(name) if settings is None else settings
    given = fitted_to(name, given, file)
    try:
        if whole:
            return original_part(name, given, file, prefix)
        return part_of(name, given, file)
    except InputError as error:
        if name not in ("unet", "refiner", "vae", "controlnet") or whole:
            raise
        published = "SDXL's refiner" if name == "refiner" else "SDXL base"
        raise InputError(
            f"{error} (without a config.json next to it, it is read with the sizes of "
            f"{published if settings is None else 'the model'}: put the file's own there)"
        ) from error


def fitted_to(name: str, settings: Mapping[str, Any], file: TensorFile) -> Mapping[str, Any]:
    """The settings of a network in this file that is of the same family; see `sizes.fitted`."""
    prefix = original.prefix_of(name, file.tensors)
    stored = {key: t.shape for key, t in file.tensors.items()}
    if prefix is None:
        return sizes.fitted(name, settings, stored.get)
    config = network(name, settings).config
    return sizes.fitted(
        name, settings, lambda key: stored.get(prefix + original.name_in(name, key, config))
    )


def settings_beside(path: Path, name: str) -> Mapping[str, Any] | None:
    """The `config.json` next to a weights file, if it is the file's own."""
    config = path.parent / "config.json"
    if not config.is_file():
        return None
    settings = read_json(config)
    said = _class_in(settings)
    if said is None:
        return settings if set(settings) & {"block_out_channels", "hidden_size"} else None
    # A folder may hold several files. Its settings describe the one with the usual name.
    return settings if said in CLASSES[name] or path.name.startswith(STEMS) else None


def _class_in(settings: Mapping[str, Any]) -> str | None:
    return settings.get("_class_name") or next(iter(settings.get("architectures") or ()), None)


def _network_of(name: str, settings: Mapping[str, Any], file: TensorFile, kind: Kind) -> Network:
    try:
        return network(name, settings)
    except InputError as error:
        raise InputError(f"{file.path} ({kind.phrase}): {error}") from error
