"""Finds SDXL, InstantID, ControlNets and VAEs in folders, single files and hub repositories."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instantid_jax.components import BaseSource, Component, ModelSource
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.params import Network
from instantid_jax.paths import local_path
from instantid_jax.request.checks import check_number, check_side
from instantid_jax.weights import original, sdxl_base, selection
from instantid_jax.weights.adapters import adapter_file, adapter_parts
from instantid_jax.weights.hub import Select, file_of, folder_of, split_id
from instantid_jax.weights.identify import identify, kind_of
from instantid_jax.weights.parts import (
    EXPECTED,
    file_part,
    fitted_to,
    original_part,
    part_of,
    wrong_kind,
)
from instantid_jax.weights.torch_files import TensorFile, open_tensors

logger = logging.getLogger(__name__)

SDXL_PARTS = selection.NETWORKS
# What differs from SDXL, in a model's folder: {"guidance_scale": 2.0, "sides": [96, 192]}.
DEFAULTS = "defaults.json"


def find_instantid(
    source: str, unet: Network | None, *, variant: str | None = None
) -> dict[str, Component]:
    """The adapter's two halves and IdentityNet, from a folder or a hub id.

    Args:
      unet: the UNet whose cross-attentions the adapter extends; None skips that half.
    """
    folder = _folder_of(
        source,
        functools.partial(selection.instantid_files, variant=variant),
        "the folder of an InstantID adapter and ControlNetModel/",
    )
    files = selection.identitynet_files(selection.list_folder(folder), variant)
    weights = next(file for file in files if not file.endswith("config.json"))
    settings = None if unet is None else _controlnet_settings(unet)
    return {
        **adapter_parts(adapter_file(folder, variant), unet),
        "controlnet": file_part("controlnet", open_tensors(folder / weights), settings),
    }


def find_sdxl(
    source: str,
    *,
    tokenizers: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
) -> BaseSource:
    """SDXL from a folder, a single file or a hub id; reads configurations and names, not weights.

    The arguments are those of `pipeline.sources.Sources`. With another VAE or tokenizers, the
    source needs none of its own.

    Raises:
      InputError: if something is missing, damaged, or of another kind than expected.
    """
    if _is_file(source):
        return _single_file(file_of(source, selection.model_files), tokenizers, vae, variant)
    own = [name for name in SDXL_PARTS if name != "vae" or vae is None]
    select = functools.partial(
        selection.sdxl_files, variant=variant, networks=own, tokenizers=tokenizers is None
    )
    try:
        folder = folder_of(source, select)
    except InputError as error:
        found = _unet_in(Path(source))
        raise InputError(f"{error}{f'; its unet/ holds {found}' if found else ''}") from error
    if variant is not None:
        _report_lacking(folder, own, variant)
    parts = {name: _diffusers_part(folder, name, name, variant) for name in own}
    if vae is not None:
        config = folder / "vae" / "config.json"
        settings = read_json(config) if config.is_file() else None
        parts["vae"] = find_network(vae, "vae", settings, variant=variant)
    index = folder / "model_index.json"
    settings = read_json(index) if index.is_file() else {}
    return BaseSource(
        {name: parts[name] for name in SDXL_PARTS},
        read_json(folder / "scheduler" / "scheduler_config.json"),
        _tokenizers_in(folder if tokenizers is None else tokenizers),
        bool(settings.get("force_zeros_for_empty_prompt", True)),
        *_defaults(folder / DEFAULTS),
    )


def _report_lacking(folder: Path, parts: Sequence[str], variant: str) -> None:
    files = selection.list_folder(folder)
    lacking = [part for part in parts if not selection.has_variant(files, part, variant)]
    if lacking:
        logger.warning(
            "%s: no weights of the variant %s in %s; taking those without a variant",
            folder,
            variant,
            ", ".join(f"{part}/" for part in lacking),
        )


def _tokenizers_in(source: str | Path) -> tuple[Path, Path]:
    folder = folder_of(source, selection.tokenizer_files)
    return folder / "tokenizer", folder / "tokenizer_2"


def _defaults(path: Path) -> tuple[float | None, tuple[int, int] | None]:
    """The guidance scale and the least and largest side in a model's `DEFAULTS`, None for none."""
    if not path.is_file():
        return None, None
    found = read_json(path)
    guidance, sides = found.get("guidance_scale"), found.get("sides")
    if guidance is not None:
        guidance = check_number("guidance_scale", guidance, 0)
    if sides is not None:
        checked = [check_side("sides", side) for side in sides] if isinstance(sides, list) else []
        if len(checked) != 2 or checked[0] > checked[1]:
            raise InputError(f"{path}: sides is {sides!r}: expected the least and the largest one")
        sides = checked[0], checked[1]
    return guidance, sides


def find_vae(sdxl: str, *, variant: str | None = None) -> Component:
    """SDXL's VAE alone, from any source that `find_sdxl` accepts."""
    if _is_file(sdxl):
        return _own_vae(_original_sdxl(file_of(sdxl, selection.model_files)))
    select = functools.partial(selection.model_files, folder="vae", variant=variant)
    folder = folder_of(sdxl, select)
    if variant is not None:
        _report_lacking(folder, ["vae"], variant)
    return _diffusers_part(folder, "vae", "vae", variant)


def add_parts(
    model: ModelSource,
    controlnets: Sequence[str],
    vae: str | None,
    unet: str | None = None,
    refiner: str | None = None,
    *,
    variant: str | None = None,
) -> ModelSource:
    """The model with additional ControlNets and, if given, another VAE, another UNet, a refiner."""
    parts = dict(model.components)
    first = len(model.controlnets) - 1
    like = _controlnet_settings(parts["unet"].network)
    for i, source in enumerate(controlnets, start=first):
        parts[f"controlnets.{i}"] = find_network(source, "controlnet", like, variant=variant)
    if vae is not None:
        parts["vae"] = find_network(vae, "vae", parts["vae"].settings, variant=variant)
    if unet is not None:
        before = parts["unet"]
        parts["unet"] = find_network(unet, "unet", before.settings, variant=variant)
        if not _same_sizes(parts["unet"].network, before.network):
            raise InputError(f"{unet}: its UNet has other sizes than the model's: give one of SDXL")
    if refiner is not None:
        parts["refiner"] = find_refiner(refiner, variant=variant)
    return dataclasses.replace(model, components=parts)


def _same_sizes(one: Network, other: Network) -> bool:
    """Whether two UNets are equal except for the channels that they are given."""
    changed = dataclasses.replace(one.config, in_channels=other.config.in_channels)
    return dataclasses.replace(one, config=changed) == other


def _controlnet_settings(unet: Network) -> Mapping[str, Any]:
    """Settings of a ControlNet for this UNet."""
    return settings_like_unet(dataclasses.asdict(unet.config))


def find_network(
    source: str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    variant: str | None = None,
) -> Component:
    """A network published by itself.

    Args:
      source: a file with it, or with a whole checkpoint; a folder or hub repository with
        `config.json` and weights; or a hub id and the path of a file in it.
      name: "unet", "controlnet", "vae" or another key of `parts.CLASSES`.
      settings: for a file without `config.json`, those of the model that it is for; None is SDXL
        base.
    Raises:
      InputError: if something is missing, damaged, of another kind, or does not fit.
    """
    if _is_file(source):
        return file_part(name, open_tensors(file_of(source, selection.model_files)), settings)
    folder = _folder_of(
        source,
        functools.partial(selection.model_files, variant=variant),
        f"the folder of {EXPECTED[name]} in diffusers' layout",
    )
    return _diffusers_part(folder, "", name, variant)


def find_refiner(source: str, *, variant: str | None = None) -> Component:
    """The UNet of SDXL's refiner; the loaded model has all else that it needs.

    Args:
      source: as for `find_network`, or the folder or hub id of a whole refiner.
    Raises:
      InputError: if something is missing, damaged, of another kind, or does not fit.
    """
    if _is_file(source):
        return find_network(source, "refiner")
    select = functools.partial(selection.refiner_files, variant=variant)
    folder = _folder_of(source, select, f"the folder of {EXPECTED['refiner']}")
    place, _, _ = select(selection.list_folder(folder))[0].rpartition("/")
    return _diffusers_part(folder, place, "refiner", variant)


def _is_file(source: str) -> bool:
    """Whether a source is a file, on this machine or in a hub repository."""
    path = local_path(source)
    return path.is_file() or (not path.is_dir() and bool(split_id(str(source))[1]))


def _folder_of(source: str, select: Select, expected: str) -> Path:
    """As `folder_of`, but reports the kind of a file passed instead of a folder."""
    if Path(source).is_file():
        raise InputError(
            f"{source} is {identify(open_tensors(source).tensors)}: expected {expected}"
        )
    return folder_of(source, select)


def _diffusers_part(folder: Path, subfolder: str, name: str, variant: str | None) -> Component:
    """A network in diffusers' or transformers' layout: `config.json` and weights."""
    settings = read_json(folder / subfolder / "config.json")
    files = selection.weights_preferring(selection.list_folder(folder), subfolder, variant)
    return part_of(name, settings, open_tensors(folder / files[0]))


def _unet_in(folder: Path) -> str | None:
    """The kind of weights in the `unet/` of a diffusers folder, in any variant."""
    whole = [p for p in (folder / "unet").glob("*.safetensors") if "-of-" not in p.name]
    for path in sorted(whole):
        return identify(open_tensors(path).tensors)
    return None


# -- single files ---------------------------------------------------------------------------------


def _single_file(
    path: Path, tokenizers: str | None, vae: str | None, variant: str | None
) -> BaseSource:
    """The parts of a checkpoint in the original layout, with SDXL base's configuration."""
    file = _original_sdxl(path)
    parts = {}
    for name in SDXL_PARTS:
        if name != "vae":
            settings = fitted_to(name, sdxl_base.SETTINGS[name], file)
            parts[name] = original_part(name, settings, file)
        elif vae is None:
            parts[name] = _own_vae(file)
        else:
            parts[name] = find_network(vae, name, variant=variant)
    scheduler = sdxl_base.SCHEDULER | original.prediction_settings(file.tensors, file.metadata)
    return BaseSource(parts, scheduler, _tokenizers_in(tokenizers or sdxl_base.HUB_ID))


def _own_vae(file: TensorFile) -> Component:
    if original.prefix_of("vae", file.tensors) is None:
        raise InputError(
            f"{file.path} has no VAE: give one as vae=, such as stabilityai/sdxl-vae or a file"
        )
    return file_part("vae", file)


def _original_sdxl(path: Path) -> TensorFile:
    """The tensors of a checkpoint in the original layout."""
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    if kind.part != "sdxl":
        expected = "an SDXL checkpoint in the original layout, or the folder of one in diffusers'"
        raise wrong_kind(path, kind, expected)
    return file
