"""Whole CLIP models, text and images, in transformers' layout."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instantid_jax.components import Component
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.clip_vision import CLIPVisionConfig, CLIPVisionModelWithProjection
from instantid_jax.params import Network
from instantid_jax.weights import names, selection
from instantid_jax.weights.hub import folder_of
from instantid_jax.weights.identify import kind_of
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.tensors import Tensors
from instantid_jax.weights.torch_files import TensorFile, open_tensors

CONFIG = "config.json"
PREPROCESSING = "preprocessor_config.json"
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
# transformers' sizes, for what a `config.json` leaves out; the image encoder's are ours.
TEXT_SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}


class CLIPSource(NamedTuple):
    """A CLIP model, located but not loaded.

    Attributes:
      text: `CLIPTextModel` with its projection.
      vision: `CLIPVisionModelWithProjection`.
      tokenizer: the tokenizer's folder.
      preprocessing: contents of `preprocessor_config.json`.
    """

    text: Component
    vision: Component
    tokenizer: Path
    preprocessing: Mapping[str, Any]


def clip_files(files: Sequence[str]) -> list[str]:
    """The files of a CLIP model: settings, tokenizer and weights.

    Raises:
      InputError: if one is missing.
    """
    tokenizer = TOKENIZER[:1] if TOKENIZER[0] in files else TOKENIZER[1:]
    required = (CONFIG, PREPROCESSING, *tokenizer)
    missing = [name for name in required if name not in files]
    if missing:
        raise InputError(
            f"no {', '.join(missing)}; expected a CLIP model in transformers' layout, such as "
            "openai/clip-vit-large-patch14"
        )
    present = [name for name in (*TOKENIZER, *TOKENIZER_SETTINGS) if name in files]
    return [CONFIG, PREPROCESSING, *present, *selection.weights_in(files, "")]


def find_clip(source: str) -> CLIPSource:
    """A CLIP model from the folder or hub id of a transformers `CLIPModel`.

    Raises:
      InputError: if something is missing, damaged, of another kind, or does not fit.
    """
    folder = folder_of(source, clip_files)
    files = selection.list_folder(folder)
    file = open_tensors(folder / selection.weights_in(files, "")[0])
    settings = read_json(folder / CONFIG)
    if settings.get("model_type") != "clip":
        raise InputError(
            f"{folder / CONFIG} describes a {settings.get('model_type')}: expected a clip model, "
            "such as openai/clip-vit-large-patch14"
        )
    shared = {"projection_dim": settings.get("projection_dim", 512)}
    text = TEXT_SIZES | _section(settings, "text_config") | shared
    text["architectures"] = ["CLIPTextModelWithProjection"]
    vision = _section(settings, "vision_config") | shared
    halves = _halves(file)
    return CLIPSource(
        _component(Network(CLIPTextModel, CLIPTextConfig.from_json(text)), text, halves[0], file),
        _component(
            Network(CLIPVisionModelWithProjection, CLIPVisionConfig.from_json(vision)),
            vision,
            halves[1],
            file,
        ),
        folder,
        read_json(folder / PREPROCESSING),
    )


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Old files repeat a section under a second name, which wins.
    return {**(settings.get(name) or {}), **(settings.get(f"{name}_dict") or {})}


def _halves(file: TensorFile) -> tuple[Tensors, Tensors]:
    """The tensors of the text and the image encoder."""
    vision = ("vision_model.", "visual_projection.")
    if not any(name.startswith(vision) for name in file.tensors):
        raise InputError(
            f"{file.path} is {kind_of(file.tensors).phrase}: expected a whole CLIP model, such as "
            "openai/clip-vit-large-patch14"
        )
    kept = names.text_encoder_names(
        {name: t for name, t in file.tensors.items() if not name.startswith(vision)}
    )
    images = {
        name: tensor
        for name, tensor in file.tensors.items()
        if name.startswith(vision) and not name.endswith("position_ids")
    }
    return kept, images


def _component(
    network: Network, settings: Mapping[str, Any], tensors: Tensors, file: TensorFile
) -> Component:
    ours = names.to_jax(tensors, network.shapes, f"{network.config.what} ({file.path})")
    return Component(network, settings, functools.partial(read_params, ours), str(file.path))
