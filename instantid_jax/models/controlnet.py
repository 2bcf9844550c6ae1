"""SDXL ControlNet. IdentityNet is a ControlNet with ID tokens and a keypoint image.

Source: Zhang et al. 2023; diffusers/models/controlnets/controlnet.py:ControlNetModel.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.blocks import Remat, keep
from instantid_jax.models.config import config_from_json, per_block
from instantid_jax.models.layers import conv1x1, conv3x3
from instantid_jax.models.unet import ENCODER_ONLY, ConditionedEncoder, EncoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlNetConfig(EncoderConfig):
    """SDXL ControlNet; field names follow diffusers' `config.json`."""

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"

    def __post_init__(self):
        super().__post_init__()
        if self.controlnet_conditioning_channel_order not in ("rgb", "bgr"):
            raise InputError(
                "controlnet_conditioning_channel_order="
                f"{self.controlnet_conditioning_channel_order!r} must be 'rgb' or 'bgr'"
            )
        if len(self.conditioning_embedding_out_channels) != 4:
            raise InputError(
                "conditioning_embedding_out_channels="
                f"{self.conditioning_embedding_out_channels!r} must have 4 entries: images are "
                "8 times the size of latents"
            )

    @property
    def residuals(self) -> int:
        """Number of residuals: one per skip of the UNet, and the middle block's."""
        return len(self.residual_levels)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads diffusers' ControlNet `config.json`; rejects unsupported settings by name."""
        only = ENCODER_ONLY | {"global_pool_conditions": False}
        return config_from_json(cls, settings, only=only)


def settings_like_unet(
    unet: Mapping[str, Any],
    conditioning_channels: Sequence[int] = ControlNetConfig.conditioning_embedding_out_channels,
) -> dict[str, Any]:
    """The `config.json` of a ControlNet with a UNet's encoder.

    Source: diffusers/models/controlnets/controlnet.py:ControlNetModel.from_unet.
    """
    config = ControlNetConfig.from_json(
        {**unet, "conditioning_embedding_out_channels": conditioning_channels}
    )
    # diffusers' defaults are not SDXL's, so every key is written; it has no attention_type.
    fixed = {
        name: supported[0] if isinstance(supported, tuple) else supported
        for name, supported in ENCODER_ONLY.items()
        if name != "attention_type"
    }
    return {"_class_name": "ControlNetModel"} | fixed | dataclasses.asdict(config)


class ControlNetConditioningEmbedding(nnx.Module):
    """Convolutions from an image [B, 8H, 8W, 3] in [0, 1] to a feature map [B, H, W, C]."""

    def __init__(self, config: ControlNetConfig, *, rngs: nnx.Rngs):
        channels = config.conditioning_embedding_out_channels
        self.bgr = config.controlnet_conditioning_channel_order == "bgr"
        self.conv_in = conv3x3(config.conditioning_channels, channels[0], rngs=rngs)
        blocks = []
        for before, after in itertools.pairwise(channels):
            blocks.append(conv3x3(before, before, rngs=rngs))
            blocks.append(conv3x3(before, after, stride=2, rngs=rngs))
        self.blocks = nnx.List(blocks)
        self.conv_out = conv3x3(channels[-1], config.block_out_channels[0], rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = jax.nn.silu(self.conv_in(image[..., ::-1] if self.bgr else image))
        for block in self.blocks:
            x = jax.nn.silu(block(x))
        return self.conv_out(x)


class ControlNetModel(ConditionedEncoder):
    """The UNet's encoder half with a control image; its outputs are added to the UNet's skips."""

    def __init__(self, config: ControlNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, id_branch=False, rngs=rngs)
        channels = config.block_out_channels
        layers = per_block(config.layers_per_block, len(channels), "layers_per_block")
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(config, rngs=rngs)
        outputs = [channels[0]]
        for i, count in enumerate(layers):
            outputs += [channels[i]] * (count + (i < len(channels) - 1))
        self.controlnet_down_blocks = nnx.List([conv1x1(c, c, rngs=rngs) for c in outputs])
        self.controlnet_mid_block = conv1x1(channels[-1], channels[-1], rngs=rngs)

    def keys_values(self, tokens: jax.Array) -> dict[str, tuple]:
        """Keys and values of all cross-attentions, computed once per image.

        tokens: [B, N, cross_attention_dim]; ID tokens for IdentityNet, text for the others.
        """
        return {
            "down_blocks": tuple(block.keys_values(tokens) for block in self.down_blocks),
            "mid_block": self.mid_block.keys_values(tokens),
        }

    def embed_image(self, image: jax.Array) -> jax.Array:
        """Embeds the control image, once: [B, 8H, 8W, 3] in [0, 1] to [B, H, W, C]."""
        return self.controlnet_cond_embedding(
            image.astype(self.controlnet_cond_embedding.conv_in.kernel.dtype)
        )

    def __call__(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        context: dict[str, tuple],
        added: jax.Array,
        image_embedding: jax.Array,
        remat: Remat = keep,
    ) -> list[jax.Array]:
        """Returns unscaled residuals: one per skip of the UNet, the middle block's last.

        Args as `UNet2DConditionModel`; `image_embedding` from `embed_image`.
        """
        time = self.embed_time(timestep, added)
        x, skips = self.encode(self.conv_in(sample) + image_embedding, time, context, remat)
        residuals = [
            conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)
        ]
        return [*residuals, self.controlnet_mid_block(x)]
