"""The variational autoencoder between images and latents.

Source: Rombach et al. 2022; diffusers/models/autoencoders/autoencoder_kl.py:AutoencoderKL.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.attention import attention, merge_heads, split_heads
from instantid_jax.models.blocks import ResnetBlock2D, Upsample2D
from instantid_jax.models.config import config_from_json
from instantid_jax.models.layers import GroupNorm, conv1x1, conv3x3, linear

# diffusers' VAE has a fixed epsilon.
EPS = 1e-6
ONLY = {"act_fn": "silu", "mid_block_add_attention": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """AutoencoderKL; field names follow diffusers' `config.json`, the defaults are SDXL's.

    If given, `latents_mean` and `latents_std` (one number per latent channel) shift and scale
    latents in addition to `scaling_factor`.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    scaling_factor: float = 0.13025
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self):
        count = len(self.block_out_channels)
        for name, kind in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ):
            if getattr(self, name) != (kind,) * count:
                raise InputError(f"VAE: {name}={getattr(self, name)} must be {count} times {kind}")
        if self.shift_factor not in (None, 0, 0.0):
            raise InputError(
                f"VAE: shift_factor={self.shift_factor} is not supported, expected null"
            )

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads diffusers' `vae/config.json`; rejects unsupported settings by name."""
        return config_from_json(cls, settings, only=ONLY)

    @property
    def downscale(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def resnet(self) -> dict[str, Any]:
        return {"time_dim": None, "groups": self.norm_num_groups, "eps": EPS}


class Attention(nnx.Module):
    """Single-head self-attention over the positions of a feature map, with biases."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(channels, groups, eps=EPS, rngs=rngs)
        self.to_q = linear(channels, channels, rngs=rngs)
        self.to_k = linear(channels, channels, rngs=rngs)
        self.to_v = linear(channels, channels, rngs=rngs)
        self.to_out = nnx.List([linear(channels, channels, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        hidden = self.group_norm(x).reshape(B, H * W, C)
        query, key, value = (split_heads(to(hidden), 1) for to in (self.to_q, self.to_k, self.to_v))
        hidden = self.to_out[0](merge_heads(attention(query, key, value)))
        return x + hidden.reshape(B, H, W, C)


class MidBlock(nnx.Module):
    """A resnet, an attention, a resnet."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.block_out_channels[-1]
        self.attentions = nnx.List([Attention(channels, config.norm_num_groups, rngs=rngs)])
        self.resnets = nnx.List(
            [ResnetBlock2D(channels, channels, **config.resnet(), rngs=rngs) for _ in range(2)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample2D(nnx.Module):
    """Halves each side; unlike the UNet's, it pads only the far sides."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class DownEncoderBlock2D(nnx.Module):
    def __init__(
        self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool, rngs: nnx.Rngs
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    channels_in if i == 0 else channels_out,
                    channels_out,
                    **config.resnet(),
                    rngs=rngs,
                )
                for i in range(config.layers_per_block)
            ]
        )
        self.downsamplers = None if last else nnx.List([Downsample2D(channels_out, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpDecoderBlock2D(nnx.Module):
    def __init__(
        self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool, rngs: nnx.Rngs
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    channels_in if i == 0 else channels_out,
                    channels_out,
                    **config.resnet(),
                    rngs=rngs,
                )
                for i in range(config.layers_per_block + 1)
            ]
        )
        self.upsamplers = None if last else nnx.List([Upsample2D(channels_out, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for resnet in self.resnets:
            x = resnet(x)
        if self.upsamplers is None:
            return x
        return self.upsamplers[0](x, (2 * x.shape[1], 2 * x.shape[2]))


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.block_out_channels
        last = len(channels) - 1
        self.conv_in = conv3x3(config.in_channels, channels[0], rngs=rngs)
        self.down_blocks = nnx.List(
            [
                DownEncoderBlock2D(
                    channels[max(i - 1, 0)], channels[i], config, last=i == last, rngs=rngs
                )
                for i in range(len(channels))
            ]
        )
        self.mid_block = MidBlock(config, rngs=rngs)
        self.conv_norm_out = GroupNorm(channels[-1], config.norm_num_groups, eps=EPS, rngs=rngs)
        self.conv_out = conv3x3(channels[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        channels = config.block_out_channels[::-1]
        last = len(channels) - 1
        self.conv_in = conv3x3(config.latent_channels, channels[0], rngs=rngs)
        self.mid_block = MidBlock(config, rngs=rngs)
        self.up_blocks = nnx.List(
            [
                UpDecoderBlock2D(
                    channels[max(i - 1, 0)], channels[i], config, last=i == last, rngs=rngs
                )
                for i in range(len(channels))
            ]
        )
        self.conv_norm_out = GroupNorm(channels[-1], config.norm_num_groups, eps=EPS, rngs=rngs)
        self.conv_out = conv3x3(channels[-1], config.out_channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Images [B, H, W, 3] in [-1, 1] to and from latents [B, H/8, W/8, 4] of unit variance."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        latent = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.quant_conv = (
            conv1x1(2 * latent, 2 * latent, rngs=rngs) if config.use_quant_conv else None
        )
        self.post_quant_conv = (
            conv1x1(latent, latent, rngs=rngs) if config.use_post_quant_conv else None
        )

    def encode(self, images: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Returns scaled float32 latents: the mean or, given unit `noise`, a sample."""
        return sample_latents(self.config, self.moments(images), noise)

    def moments(self, images: jax.Array) -> jax.Array:
        """Returns the posterior's mean and log-variance, [B, H/8, W/8, 2 · 4] float32, unscaled."""
        moments = self.encoder(images.astype(self.encoder.conv_in.kernel.dtype))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments.astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Takes scaled latents; returns images in the weights' dtype, not clipped."""
        shift, scale = _shift_and_scale(self.config)
        x = latents.astype(jnp.float32) / scale + shift
        x = x.astype(self.decoder.conv_in.kernel.dtype)
        return self.decoder(x if self.post_quant_conv is None else self.post_quant_conv(x))


def sample_latents(
    config: VAEConfig, moments: jax.Array, noise: jax.Array | None = None
) -> jax.Array:
    """Scaled float32 latents [B, H, W, C]: the mean or, given unit `noise`, a sample.

    Args:
      moments: [B, H, W, 2C], from `AutoencoderKL.moments`.
    Source: diffusers/models/autoencoders/vae.py:DiagonalGaussianDistribution.
    """
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    if noise is not None:
        mean += jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0)) * noise
    shift, scale = _shift_and_scale(config)
    return (mean - shift) * scale


def _shift_and_scale(config: VAEConfig) -> tuple[jax.Array, jax.Array]:
    """[1, 1, 1, C] each, or [1, 1, 1, 1]: latents are (encoded - shift) · scale."""
    mean = (0.0,) if config.latents_mean is None else config.latents_mean
    std = (1.0,) if config.latents_std is None else config.latents_std
    shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    return shift, config.scaling_factor / jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
