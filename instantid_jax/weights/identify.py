"""Telling from names and shapes what a weights file is, so that a wrong one can be named."""

from collections.abc import Iterable, Mapping

from instantid_jax.weights.original import PREFIXES, STATE
from instantid_jax.weights.tensors import Tensors

SDXL_TEXT = 2048
SD15_TEXT = 768
SD2_TEXT = 1024


def identify(tensors: Tensors) -> str:
    """What a file of tensors is, as a noun phrase: "an SD 1.x checkpoint (one file)"."""
    shapes = {name.removeprefix(STATE): tensor.shape for name, tensor in tensors.items()}
    if not shapes:
        return "a file without tensors"
    for recognise in (_whole_checkpoint, _adapter, _lora, _diffusers_network, _text_encoder, _vae):
        found = recognise(shapes)
        if found:
            return found
    return f"a file of {len(shapes)} tensors of another kind ({', '.join(list(shapes)[:2])}, ...)"


def _any(shapes: Iterable[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in shapes)


def _whole_checkpoint(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if _any(shapes, "control_model."):
        return "a ControlNet in the original layout (convert it to diffusers' first)"
    if not _any(shapes, PREFIXES["unet"]):
        return None
    if _any(shapes, "conditioner.embedders.1."):
        return "an SDXL checkpoint (one file, original layout)"
    if _any(shapes, "conditioner.embedders.0.model."):
        return "an SDXL refiner checkpoint (one file, original layout)"
    if _any(shapes, "cond_stage_model.model."):
        return "an SD 2.x checkpoint (one file, original layout)"
    if _any(shapes, "cond_stage_model."):
        return "an SD 1.x checkpoint (one file, original layout)"
    if _any(shapes, "model.diffusion_model.joint_blocks", "model.diffusion_model.double_blocks"):
        return "an SD 3 or FLUX checkpoint (one file)"
    return f"a {_base(_text_width(shapes))} UNet in the original layout, without the rest"


def _adapter(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if not _any(shapes, "image_proj.", "ip_adapter."):
        return None
    if "image_proj.latents" not in shapes:
        return "an IP-Adapter without a Resampler, not InstantID's"
    width = shapes.get("image_proj.proj_in.weight", (0, 0))[-1]
    if width != 512:
        return f"an adapter for image embeddings of {width} numbers"
    return "an InstantID adapter"


def _lora(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if any(".lora_" in name or "lora_unet" in name or "lora.down" in name for name in shapes):
        return "a LoRA"
    return None


def _diffusers_network(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if not _any(shapes, "down_blocks."):
        return None
    base = _base(_text_width(shapes))
    if _any(shapes, "controlnet_cond_embedding."):
        return f"{_article(base)} {base} ControlNet (diffusers layout)"
    return f"{_article(base)} {base} UNet (diffusers layout)"


def _text_encoder(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if any(name.endswith("embeddings.token_embedding.weight") for name in shapes):
        return "a CLIP text encoder (transformers layout)"
    return None


def _vae(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if _any(shapes, "encoder.down_blocks.", "decoder.up_blocks."):
        return "a VAE (diffusers layout)"
    if _any(shapes, "encoder.down.", "decoder.up."):
        return "a VAE (original layout)"
    return None


def _text_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the text that the network's cross-attentions take."""
    return next((s[1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), None)


def _base(text_width: int | None) -> str:
    """The base model whose text is so wide."""
    known = {SDXL_TEXT: "SDXL", SD15_TEXT: "SD 1.x", SD2_TEXT: "SD 2.x"}
    return known.get(text_width, f"{text_width}-wide")


def _article(noun: str) -> str:
    return "an" if noun.startswith("SD") else "a"
