"""Settings of networks in files without a `config.json`: what tensors show of their sizes."""

from collections.abc import Callable, Mapping
from typing import Any

from instantid_jax.models.config import per_block
from instantid_jax.models.controlnet import ControlNetConfig, settings_like_unet
from instantid_jax.weights import sdxl_base

# Returns a tensor's shape by its diffusers name, or None if the file lacks it.
ShapeOf = Callable[[str], tuple[int, ...] | None]
Settings = Mapping[str, Any]


def base_settings(part: str) -> Settings:
    """SDXL base's settings of a network."""
    return settings_like_unet({}) if part == "controlnet" else sdxl_base.SETTINGS[part]


def fitted(part: str, settings: Settings, shape_of: ShapeOf) -> Settings:
    """Settings of a network of the same family whose tensors are known.

    Args:
      part: a network's name; only "unet", "vae" and "controlnet" vary.
      settings: those of the model that it is for.
    """
    if part == "unet":
        return {**settings, **_of_first(shape_of("conv_in.weight"), "in_channels")}
    if part == "vae":
        return {
            **settings,
            "use_quant_conv": shape_of("quant_conv.weight") is not None,
            "use_post_quant_conv": shape_of("post_quant_conv.weight") is not None,
            **_of_first(shape_of("decoder.conv_in.weight"), "latent_channels"),
        }
    return {**settings, **_controlnet(settings, shape_of)} if part == "controlnet" else settings


def _of_first(shape: tuple[int, ...] | None, key: str) -> dict[str, int]:
    """The input channels of a convolution."""
    return {} if shape is None else {key: shape[1]}


def _controlnet(settings: Settings, shape_of: ShapeOf) -> dict[str, Any]:
    config = ControlNetConfig.from_json(settings)
    blocks = len(config.block_out_channels)
    found: dict[str, Any] = _of_first(shape_of("conv_in.weight"), "in_channels")
    found |= _of_first(
        shape_of("add_embedding.linear_1.weight"), "projection_class_embeddings_input_dim"
    )
    hint = "controlnet_cond_embedding"
    image = [shape_of(f"{hint}.{name}.weight") for name in ("conv_in", *_widening())]
    if all(image):
        found |= _of_first(image[0], "conditioning_channels")
        found["conditioning_embedding_out_channels"] = [shape[0] for shape in image if shape]
    given = per_block(config.transformer_layers_per_block, blocks, "transformer_layers_per_block")
    layers = list(given)
    kinds = list(config.down_block_types)
    for block in range(blocks):
        prefix = f"down_blocks.{block}.attentions.0.transformer_blocks"
        count = 0
        while shape := shape_of(f"{prefix}.{count}.attn2.to_k.weight"):
            found["cross_attention_dim"] = shape[1]
            count += 1
        kinds[block] = "CrossAttnDownBlock2D" if count else "DownBlock2D"
        layers[block] = count or given[block]
    if layers != list(given):
        found["transformer_layers_per_block"] = layers
    return found | {"down_block_types": kinds}


def _widening() -> list[str]:
    """The convolutions that change the width of a control image's features."""
    levels = len(ControlNetConfig.conditioning_embedding_out_channels) - 1
    return [f"blocks.{2 * level + 1}" for level in range(levels)]
