"""The SDXL UNet with decoupled ID cross-attention, and the refiner's without it.

Source: Podell et al. 2023 (SDXL); Wang et al. 2024 (InstantID);
diffusers/models/unets/unet_2d_condition.py:UNet2DConditionModel.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.blocks import (
    DownBlock2D,
    Remat,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
    keep,
)
from instantid_jax.models.config import config_from_json, per_block
from instantid_jax.models.layers import (
    GroupNorm,
    TimestepEmbedding,
    conv3x3,
    sinusoidal_embedding,
)

# Supported values of fixed settings; first those of the encoder half, which ControlNets share.
ENCODER_ONLY = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "attention_type": "default",
    "class_embed_type": None,
    "downsample_padding": 1,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "use_linear_projection": True,
}
UNET_ONLY = ENCODER_ONLY | {
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dropout": (0, 0.0),
    "dual_cross_attention": False,
    "mid_block_only_cross_attention": (None, False),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of the encoder half that the UNet and the ControlNets share.

    Field names follow diffusers' `config.json`; the defaults are SDXL's. Despite
    its name, `attention_head_dim` is the number of heads, as in diffusers.
    """

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280)
    down_block_types: tuple[str, ...] = (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
    )
    layers_per_block: int | tuple[int, ...] = 2
    transformer_layers_per_block: int | tuple[int, ...] = (1, 2, 10)
    attention_head_dim: int | tuple[int, ...] = (5, 10, 20)
    cross_attention_dim: int = 2048
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 2816
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    def __post_init__(self):
        count = len(self.block_out_channels)
        known = ("DownBlock2D", "CrossAttnDownBlock2D")
        if len(self.down_block_types) != count or set(self.down_block_types) - set(known):
            raise InputError(
                f"down_block_types {self.down_block_types} must name one of {', '.join(known)} "
                f"for each of the {count} blocks of block_out_channels {self.block_out_channels}"
            )
        for name in ("layers_per_block", "transformer_layers_per_block", "attention_head_dim"):
            per_block(getattr(self, name), count, name)
        if not isinstance(self.cross_attention_dim, int):
            raise InputError(
                f"cross_attention_dim={self.cross_attention_dim!r} must be one integer"
            )

    @property
    def time_dim(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def residual_levels(self) -> tuple[int, ...]:
        """How often each residual of a ControlNet is halved; the middle block's is the last."""
        last = len(self.block_out_channels) - 1
        layers = per_block(self.layers_per_block, last + 1, "layers_per_block")
        levels = [0]  # conv_in
        for level, count in enumerate(layers):
            # Each block's layers and, except in the last block, a downsampler.
            levels += [level] * count + [level + 1] * (level < last)
        return (*levels, last)

    def resnet(self) -> dict[str, Any]:
        """Arguments of all resnets."""
        return {"time_dim": self.time_dim, "groups": self.norm_num_groups, "eps": self.norm_eps}

    def transformer(self, block: int, *, id_branch: bool) -> dict[str, Any]:
        """Arguments of the transformers at the resolution of down block `block`."""
        count = len(self.block_out_channels)
        layers = per_block(self.transformer_layers_per_block, count, "transformer_layers_per_block")
        heads = per_block(self.attention_head_dim, count, "attention_head_dim")
        return {
            "heads": heads[block],
            "layers": layers[block],
            "token_dim": self.cross_attention_dim,
            "groups": self.norm_num_groups,
            "id_branch": id_branch,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(EncoderConfig):
    """SDXL UNet; field names follow diffusers' `config.json`.

    `sample_size` is the side in latents of the training images.
    """

    sample_size: int = 128
    out_channels: int = 4
    up_block_types: tuple[str, ...] = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")

    def __post_init__(self):
        super().__post_init__()
        known = ("UpBlock2D", "CrossAttnUpBlock2D")
        count = len(self.block_out_channels)
        if len(self.up_block_types) != count or set(self.up_block_types) - set(known):
            raise InputError(
                f"up_block_types {self.up_block_types} must name one of {', '.join(known)} "
                f"for each of the {count} blocks of block_out_channels {self.block_out_channels}"
            )

    @property
    def transformers(self) -> dict[str, int]:
        """How many transformers each block with cross-attention has, in order of `keys_values`.

        Keys are diffusers' names of blocks: down.block_1, mid, up.block_0.
        """
        count = len(self.block_out_channels)
        layers = per_block(self.layers_per_block, count, "layers_per_block")
        down = {
            f"down.block_{i}": layers[i]
            for i, kind in enumerate(self.down_block_types)
            if kind == "CrossAttnDownBlock2D"
        }
        up = {
            f"up.block_{i}": layers[count - 1 - i] + 1
            for i, kind in enumerate(self.up_block_types)
            if kind == "CrossAttnUpBlock2D"
        }
        return down | {"mid": 1} | up

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads diffusers' `unet/config.json`; rejects unsupported settings by name."""
        return config_from_json(cls, settings, only=UNET_ONLY)


class ConditionedEncoder(nnx.Module):
    """The shared part of UNet and ControlNet: embeddings, down blocks, middle block."""

    def __init__(self, config: EncoderConfig, *, id_branch: bool, rngs: nnx.Rngs):
        channels = config.block_out_channels
        layers = per_block(config.layers_per_block, len(channels), "layers_per_block")
        self.config = config
        self.conv_in = conv3x3(config.in_channels, channels[0], rngs=rngs)
        self.time_embedding = TimestepEmbedding(channels[0], config.time_dim, rngs=rngs)
        self.add_embedding = TimestepEmbedding(
            config.projection_class_embeddings_input_dim, config.time_dim, rngs=rngs
        )
        self.down_blocks = nnx.List(
            [
                DownBlock2D(
                    channels[max(i - 1, 0)],
                    channels[i],
                    resnets=layers[i],
                    transformer=config.transformer(i, id_branch=id_branch)
                    if kind == "CrossAttnDownBlock2D"
                    else None,
                    downsample=i < len(channels) - 1,
                    resnet=config.resnet(),
                    rngs=rngs,
                )
                for i, kind in enumerate(config.down_block_types)
            ]
        )
        self.mid_block = UNetMidBlock2DCrossAttn(
            channels[-1],
            transformer=config.transformer(len(channels) - 1, id_branch=id_branch),
            resnet=config.resnet(),
            rngs=rngs,
        )

    def embed_added(self, text_embeds: jax.Array, time_ids: jax.Array) -> jax.Array:
        """Embeds the pooled text and the micro-conditioning, once for all steps.

        Args:
          text_embeds: [B, projection_dim], pooled output of text encoder 2.
          time_ids: [B, 6] float32: original size, crop corner, target size, each (height,
            width); for the refiner [B, 5], with an aesthetic score instead of the target size.
        Returns:
          [B, time_dim].
        """
        B, ids = time_ids.shape
        config = self.config
        embedded = sinusoidal_embedding(
            time_ids.reshape(B * ids),
            config.addition_time_embed_dim,
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        ).reshape(B, ids * config.addition_time_embed_dim)
        return self.add_embedding(
            jnp.concatenate([text_embeds.astype(jnp.float32), embedded], axis=-1)
        )

    def embed_time(self, timestep: jax.Array, added: jax.Array) -> jax.Array:
        """SiLU of the summed embeddings, the input of all resnets. timestep: [B] float32."""
        config = self.config
        sinusoid = sinusoidal_embedding(
            timestep,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        return jax.nn.silu(self.time_embedding(sinusoid) + added)

    def encode(
        self, x: jax.Array, time: jax.Array, context: dict[str, tuple], remat: Remat = keep
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Runs the down blocks and the middle block from the output of `conv_in`.

        Returns the middle block's output and the skips, starting with the output of `conv_in`.
        """
        skips = [x]
        for block, block_context in zip(self.down_blocks, context["down_blocks"], strict=True):
            x, outputs = block(x, time, block_context, remat)
            skips += outputs
        return self.mid_block(x, time, context["mid_block"], remat), skips


class UNet(ConditionedEncoder):
    """Predicts the noise (or velocity) in latents, with the ID branch or without."""

    def __init__(self, config: UNetConfig, *, id_branch: bool, rngs: nnx.Rngs):
        super().__init__(config, id_branch=id_branch, rngs=rngs)
        channels = config.block_out_channels
        layers = per_block(config.layers_per_block, len(channels), "layers_per_block")
        # The skips of `encode`: conv_in, then each block's resnets and downsampler.
        skips = [channels[0]]
        for i, count in enumerate(layers):
            skips += [channels[i]] * (count + (i < len(channels) - 1))
        up_blocks = []
        width = channels[-1]
        for i, kind in enumerate(config.up_block_types):
            level = len(channels) - 1 - i
            taken = [skips.pop() for _ in range(layers[level] + 1)]
            up_blocks.append(
                UpBlock2D(
                    width,
                    taken,
                    channels[level],
                    transformer=config.transformer(level, id_branch=id_branch)
                    if kind == "CrossAttnUpBlock2D"
                    else None,
                    upsample=level > 0,
                    resnet=config.resnet(),
                    rngs=rngs,
                )
            )
            width = channels[level]
        self.up_blocks = nnx.List(up_blocks)
        self.conv_norm_out = GroupNorm(
            channels[0], config.norm_num_groups, eps=config.norm_eps, rngs=rngs
        )
        self.conv_out = conv3x3(channels[0], config.out_channels, rngs=rngs)

    def __call__(
        self,
        sample: jax.Array,
        timestep: jax.Array,
        context: dict[str, tuple],
        added: jax.Array,
        residuals: list[jax.Array] | None = None,
        remat: Remat = keep,
        freeu: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the noise.

        Args:
          sample: [B, H, W, in_channels] latents, scaled for the model input.
          timestep: [B] float32 in [0, 1000).
          context: keys and values of all cross-attentions.
          added: [B, time_dim], from `embed_added`.
          residuals: sums over ControlNets: one per skip, then the middle block's.
          remat: wraps every resnet and transformer block in training.
          freeu: [2, 2, B], for each of the first two up blocks FreeU's factors of backbone and
            skips.
        Returns:
          [B, H, W, out_channels].
        """
        time = self.embed_time(timestep, added)
        x, skips = self.encode(self.conv_in(sample), time, context, remat)
        if residuals is not None:
            *skip_residuals, mid_residual = residuals
            skips = [s + r for s, r in zip(skips, skip_residuals, strict=True)]
            x = x + mid_residual
        for i, block in enumerate(self.up_blocks):
            factors = None if freeu is None or i >= len(freeu) else freeu[i]
            x = block(x, skips, time, context["up_blocks"][i], remat, factors)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class UNet2DConditionModel(UNet):
    """SDXL's UNet with InstantID's Image Adapter: given text and a person."""

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, id_branch=True, rngs=rngs)

    def keys_values(
        self, text: jax.Array, id_tokens: jax.Array, ip_adapter_scale: jax.Array
    ) -> dict[str, tuple]:
        """Keys and values of all cross-attentions, computed once per image.

        Args:
          text: [B, L, cross_attention_dim], hidden states of both text encoders.
          id_tokens: [B, N, cross_attention_dim], from the Resampler.
          ip_adapter_scale: the ID branch's strength, [B] or scalar; or in each transformer,
            [transformers, B], in order of `UNetConfig.transformers`.
        """
        one_for_all = ip_adapter_scale.ndim < 2
        scales = itertools.repeat(ip_adapter_scale) if one_for_all else iter(ip_adapter_scale)

        def of_block(block: DownBlock2D | UNetMidBlock2DCrossAttn | UpBlock2D) -> tuple:
            return tuple(
                transformer.keys_values(text, id_tokens, next(scales))
                for transformer in block.attentions or ()
            )

        return {
            "down_blocks": tuple(map(of_block, self.down_blocks)),
            "mid_block": of_block(self.mid_block),
            "up_blocks": tuple(map(of_block, self.up_blocks)),
        }


class RefinerUNet(UNet):
    """The UNet of SDXL's refiner: given text alone."""

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, id_branch=False, rngs=rngs)

    def keys_values(self, text: jax.Array) -> dict[str, tuple]:
        """Keys and values of all cross-attentions, computed once per image.

        Args:
          text: [B, L, cross_attention_dim], hidden states of text encoder 2.
        """
        return {
            "down_blocks": tuple(block.keys_values(text) for block in self.down_blocks),
            "mid_block": self.mid_block.keys_values(text),
            "up_blocks": tuple(block.keys_values(text) for block in self.up_blocks),
        }
