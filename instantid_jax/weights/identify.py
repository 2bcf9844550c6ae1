"""Identifies weights files by tensor names and shapes, so that errors can name a wrong file."""

import dataclasses
import math
import re
from collections.abc import Mapping

from instantid_jax.weights.names import AVERAGE, adapter_names, without_averages
from instantid_jax.weights.original import PREFIXES, prefix_of
from instantid_jax.weights.tensors import Tensors

Shapes = Mapping[str, tuple[int, ...]]

# Widths of face embeddings, and of the states of CLIP's image encoders (ViT-H, ViT-bigG).
FACE = 512
CLIP_IMAGE = (1280, 1664)
# Base models by the width of the text states and of the added embeddings' input.
SDXL, REFINER = (2048, 2816), (1280, 2560)
BASES = {SDXL: "SDXL", REFINER: "SDXL refiner", (768, None): "SD 1.x", (1024, None): "SD 2.x"}
# Parts of names in LoRAs and their relatives.
LORA_MARKS = (
    *(".lora_", "lora_unet", "lora_te", "lora.down", ".lora.", "_lora.down", ".hada_", ".lokr_"),
    *(".dora_scale", ".diff", ".w_norm", ".oft_", ".on_input"),
)
# Factors whose second axis is the width of the text states.
LORA_TEXT_KEYS = re.compile(
    r"attn2[._](processor\.)?to_[kv].*\.(lora_down|lora_A(\.\w+)?|down|hada_w1_b)(\.weight)?$"
)
# Textual inversions: vectors of both text encoders. The second names are of older files.
EMBEDDING_KEYS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
# Those that OneTrainer stores in a LoRA.
BUNDLED = "bundle_emb."
# Vectors of one text encoder, by width.
HALVES = {
    768: "an SD 1.x textual inversion, or one for text encoder 1 alone",
    1024: "an SD 2.x textual inversion",
    1280: "a textual inversion for text encoder 2 alone",
}
# Numbers in a textual inversion for one text encoder; larger tensors are something else.
LARGEST = 128 * 1280
# The first weight of the added embeddings, in the original layout.
LABELS = "label_emb.0.0.weight"
# Input channels of UNets that take an image in addition to the noise.
EDITORS = {9: "inpainting", 8: "image editing"}
# Those that can be loaded.
LOADED = ("", "inpainting ")
# Additions that are not supported, by how a name begins.
ADDITIONS = {
    "lllite_": "a ControlNet-LLLite (use a whole ControlNet instead)",
    "adapter.body.": "a T2I-Adapter (use a ControlNet instead)",
    "body.0.": "a T2I-Adapter (use a ControlNet instead)",
    "id_adapter.": "a PuLID adapter",
    "id_adapter_attn_layers.": "a PuLID adapter",
    "id_encoder.": "a PhotoMaker adapter",
    "encoder.block.0.": "a T5 text encoder (of SD 3 or FLUX)",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of a weights file.

    Attributes:
      phrase: a noun phrase, such as "an SD 1.x checkpoint (one file, original layout)".
      part: its use here: "sdxl" (a whole checkpoint), "instantid" (the adapter), "lora",
        "embedding" or the name of a component; None if it has none.
    """

    phrase: str
    part: str | None = None


def identify(tensors: Tensors) -> str:
    """The kind of a weights file, as a noun phrase."""
    return kind_of(tensors).phrase


def kind_of(tensors: Tensors) -> Kind:
    """The kind of a weights file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not shapes:
        return Kind("a file without tensors")
    if not _any(shapes, PREFIXES["unet"]) and _any(shapes, "model_ema.diffusion_model"):
        return Kind("a checkpoint with its UNet's moving average (model_ema) instead of the UNet")
    if all(AVERAGE.search(name) for name in shapes):
        return Kind("moving averages of weights, without the weights themselves")
    shapes = without_averages(shapes)
    for recognize in (
        _controlnet,
        _whole_checkpoint,
        _adapter,
        _addition,
        _transformer,
        _network,
        _text_encoder,
        _vae,
        _embedding,
    ):
        found = recognize(shapes)
        if found:
            return found
    names = ", ".join(list(shapes)[:2])
    return Kind(f"a file of {len(shapes)} tensors of another kind ({names}, ...)")


def _any(shapes: Shapes, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in shapes)


def _controlnet(shapes: Shapes) -> Kind | None:
    """ControlNets in the original layout, by themselves or next to their UNet."""
    if "lora_controlnet" in shapes:
        return Kind("a Control-LoRA (a change to the UNet; use a whole ControlNet instead)")
    prefix = prefix_of("controlnet", shapes)
    if prefix is None:
        return None
    base = _base({n: s for n, s in shapes.items() if n.startswith(prefix)}, f"{prefix}{LABELS}")
    return Kind(
        f"{_article(base)} {base} ControlNet (original layout)",
        "controlnet" if _known(base) else None,
    )


def _whole_checkpoint(shapes: Shapes) -> Kind | None:
    """Checkpoints in the original layout, and their UNets by themselves."""
    unet = prefix_of("unet", shapes)
    if unet is None:
        return None
    whole = "(one file, original layout)"
    editor = _editor(shapes, f"{unet}input_blocks.0.0.weight", f"{unet}out.2.weight")
    base = _base(shapes, f"{unet}{LABELS}")
    if _any(shapes, f"{unet}joint_blocks.", f"{unet}double_blocks."):
        return Kind("an SD 3 or FLUX checkpoint (one file)")
    first, second = (_any(shapes, PREFIXES[f"text_encoder{i}"]) for i in ("", "_2"))
    if second or (first and base == BASES[SDXL]):
        lacking = [f"text encoder {i}" for i, held in ((1, first), (2, second)) if not held]
        lack = "".join(f" without {part}" for part in lacking)
        part = "unet" if lacking else "sdxl"
        return Kind(f"an SDXL {editor}checkpoint{lack} {whole}", part if editor in LOADED else None)
    if _any(shapes, "conditioner.embedders.0.model."):
        return Kind(f"an SDXL refiner checkpoint {whole}", "refiner")
    if _any(shapes, "conditioner."):
        return Kind(f"a Stable Video Diffusion checkpoint {whole}")
    if _any(shapes, "cond_stage_model.model."):
        return Kind(f"an SD 2.x {editor}checkpoint {whole}")
    if _any(shapes, "cond_stage_model."):
        return Kind(f"an SD 1.x {editor}checkpoint {whole}")
    rest = "the rest" if not _any(shapes, "first_stage_model.") else "text encoders"
    return Kind(
        f"{_article(base)} {base} {editor}UNet in the original layout, without {rest}",
        _unet_part(base, editor),
    )


def _adapter(shapes: Shapes) -> Kind | None:
    """Adapters with keys and values for image tokens: InstantID and IP-Adapters."""
    shapes = adapter_names(shapes)
    if not _any(shapes, "image_proj.", "ip_adapter."):
        return None
    if "image_proj.latents" in shapes:
        width = shapes.get("image_proj.proj_in.weight", (0, FACE))[-1]
        if width in CLIP_IMAGE:
            return Kind(f"an IP-Adapter Plus (for CLIP's image embeddings, {width} numbers)")
        suffix = "" if width == FACE else f" for face embeddings of {width} numbers"
        return Kind(f"an InstantID adapter{suffix}", "instantid")
    if _any(shapes, "image_proj.perceiver_resampler."):
        return Kind("an IP-Adapter FaceID Plus")
    if "image_proj.proj.0.weight" in shapes:
        faces = shapes["image_proj.proj.0.weight"][-1] == FACE
        return Kind("an IP-Adapter FaceID" if faces else "an IP-Adapter Full")
    if _any(shapes, "image_proj."):
        return Kind("an IP-Adapter (for CLIP's image embeddings)")
    return Kind("keys and values of an adapter without its image_proj")


def _addition(shapes: Shapes) -> Kind | None:
    """Small files that change another model."""
    for start, phrase in ADDITIONS.items():
        if _any(shapes, start):
            return Kind(phrase)
    if any(".motion_modules." in name for name in shapes):
        return Kind("a motion module (AnimateDiff)")
    if any(mark in name for name in shapes for mark in LORA_MARKS):
        return _lora(shapes)
    return None


def _lora(shapes: Shapes) -> Kind:
    blocks = ("double_blocks", "single_blocks", "joint_blocks", "single_transformer_blocks")
    transformer = _any(shapes, "transformer.", "lora_transformer_")
    if transformer or any(block in name for name in shapes for block in blocks):
        return Kind("a LoRA of a diffusion transformer (SD 3, FLUX or similar)")
    if _any(shapes, "lora_prior_"):
        return Kind("a LoRA of Stable Cascade")
    widths = [shape[1] for name, shape in shapes.items() if LORA_TEXT_KEYS.search(name)]
    bases = {text: base for (text, _), base in BASES.items()}
    base = bases.get(widths[0]) if widths else None
    if base is None:
        return Kind("a LoRA", "lora")
    return Kind(f"a LoRA of {base}", "lora" if base == BASES[SDXL] else None)


def _transformer(shapes: Shapes) -> Kind | None:
    """Diffusion transformers, in any layout."""
    blocks = ("double_blocks.", "joint_blocks.", "single_transformer_blocks.")
    if _any(shapes, *blocks, "transformer_blocks."):
        return Kind("a diffusion transformer (SD 3, FLUX or similar)")
    return None


def _network(shapes: Shapes) -> Kind | None:
    """UNets and ControlNets in diffusers' layout."""
    if not _any(shapes, "down_blocks.") or not _any(shapes, "conv_in."):
        return None
    base = _base(shapes, "add_embedding.linear_1.weight")
    if _any(shapes, "controlnet_cond_embedding."):
        if _any(shapes, "task_embedding", "control_add_embedding."):
            return Kind(f"{_article(base)} {base} union ControlNet (diffusers layout)")
        return Kind(
            f"{_article(base)} {base} ControlNet (diffusers layout)",
            "controlnet" if _known(base) else None,
        )
    editor = _editor(shapes, "conv_in.weight", "conv_out.weight")
    return Kind(
        f"{_article(base)} {base} {editor}UNet (diffusers layout)", _unet_part(base, editor)
    )


def _editor(shapes: Shapes, first: str, last: str) -> str:
    """The task of an image-editing UNet and a space; empty for text-to-image."""
    taken, made = shapes.get(first, (0, 4))[1], shapes.get(last, (4, 0))[0]
    return f"{EDITORS[taken]} " if taken in EDITORS and taken > made else ""


def _text_encoder(shapes: Shapes) -> Kind | None:
    if not any(name.endswith("embeddings.token_embedding.weight") for name in shapes):
        return Kind("a CLIP image encoder") if _any(shapes, "vision_model.") else None
    if _any(shapes, "vision_model."):
        return Kind("a whole CLIP model (text and images)")
    if "text_projection.weight" in shapes:
        return Kind("a CLIP text encoder with a projection", "text_encoder_2")
    return Kind("a CLIP text encoder", "text_encoder")


def _vae(shapes: Shapes) -> Kind | None:
    if _any(shapes, "encoder.down_blocks.", "decoder.up_blocks."):
        channels = shapes.get("decoder.conv_in.weight", (0, 4))[1]
        suffix = "" if channels == 4 else f" with {channels} latent channels"
        return Kind(f"a VAE{suffix} (diffusers layout)", "vae")
    if _any(shapes, "encoder.down.", "decoder.up.") or prefix_of("vae", shapes) == "vae.":
        return Kind("a VAE (original layout)", "vae")
    if _any(shapes, "first_stage_model."):
        return Kind("a VAE with the names of a whole checkpoint", "vae")
    if _any(shapes, "encoder.layers.", "decoder.layers."):
        return Kind("a tiny VAE, for previews")
    return None


def _embedding(shapes: Shapes) -> Kind | None:
    """Textual inversions. diffusers' have one tensor, named by the word that stands for it."""
    keys = {key for both in EMBEDDING_KEYS for key in both}
    if {"t5", "t5xxl"} & set(shapes):
        return Kind("an SD 3 or FLUX textual inversion")
    if any(set(both) <= set(shapes) for both in EMBEDDING_KEYS) or _any(shapes, BUNDLED):
        return Kind("an SDXL textual inversion", "embedding")
    marked = [
        shape
        for name, shape in shapes.items()
        if name in keys or name.startswith(("emb_params", "string_to_param"))
    ]
    for shape in marked or (shapes.values() if len(shapes) == 1 else ()):
        if len(shape) in (1, 2) and shape[-1] in HALVES and math.prod(shape) <= LARGEST:
            return Kind(HALVES[shape[-1]])
    return Kind("a textual inversion") if marked else None


def _base(shapes: Shapes, added: str) -> str:
    """The base model of a UNet or ControlNet, or the width of its text states.

    Args:
      added: name of the added embeddings' first weight.
    """
    text = next((s[1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), None)
    width = shapes[added][1] if added in shapes else None
    if text is None and width == SDXL[1]:
        return BASES[SDXL]  # small ControlNets have no attention
    if (text, width) in BASES:
        return BASES[text, width]
    return "unknown kind of" if text is None else f"{text}-wide"


def _unet_part(base: str, editor: str) -> str | None:
    if base == BASES[REFINER]:
        return None if editor else "refiner"
    return "unet" if _known(base) and editor in LOADED else None


def _known(base: str) -> bool:
    """Whether networks of a base model may be usable; small models have a width as their base."""
    return not base.startswith(("SD 1", "SD 2", "SDXL refiner", "unknown"))


def _article(noun: str) -> str:
    return "an" if noun.startswith(("SD", "unknown")) else "a"
