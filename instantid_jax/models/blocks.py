"""Blocks of the UNet, the ControlNets and the VAE, named as in diffusers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.models.attention import CrossAttention, DecoupledCrossAttention, SelfAttention
from instantid_jax.models.freeu import freeu
from instantid_jax.models.layers import (
    GroupNorm,
    Placeholder,
    conv1x1,
    conv3x3,
    gelu,
    layer_norm,
    linear,
    upsample_nearest,
)
from instantid_jax.params import map_stack, scan_stack


@dataclasses.dataclass(frozen=True)
class Remat:
    """Rematerialization of layers; `remat(layer)` wraps a layer.

    Attributes:
      checkpoint: `jax.checkpoint`, which recomputes activations in the backward pass; None saves
        them.
    """

    checkpoint: Callable[[Callable], Callable] | None = None

    def __call__(self, layer: Callable) -> Callable:
        return layer if self.checkpoint is None else self.checkpoint(layer)


# No rematerialization.
keep = Remat()


class ResnetBlock2D(nnx.Module):
    """Two GroupNorm-SiLU-convolution layers and a skip, with a time embedding added between.

    Source: He et al. 2016; diffusers/models/resnet.py:ResnetBlock2D.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        time_dim: int | None,
        groups: int,
        eps: float,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(channels_in, groups, eps=eps, rngs=rngs)
        self.conv1 = conv3x3(channels_in, channels_out, rngs=rngs)
        self.time_emb_proj = None if time_dim is None else linear(time_dim, channels_out, rngs=rngs)
        self.norm2 = GroupNorm(channels_out, groups, eps=eps, rngs=rngs)
        self.conv2 = conv3x3(channels_out, channels_out, rngs=rngs)
        self.conv_shortcut = (
            None if channels_in == channels_out else conv1x1(channels_in, channels_out, rngs=rngs)
        )

    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        """x: [B, H, W, C]; time: SiLU of the time embedding, [B, time_dim]."""
        hidden = self.conv1(jax.nn.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert time is not None, "this resnet takes a time embedding"
            hidden += self.time_emb_proj(time)[:, None, None, :]
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nnx.Module):
    """Halves each side with a strided convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = conv3x3(channels, channels, stride=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest upsampling to `size` (twice the sides, or one less), then a convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = conv3x3(channels, channels, rngs=rngs)

    def __call__(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        return self.conv(upsample_nearest(x, size))


class GEGLU(nnx.Module):
    """Linear layer whose second half gates the first through GELU (Shazeer 2020)."""

    def __init__(self, features_in: int, features: int, *, rngs: nnx.Rngs):
        self.proj = linear(features_in, 2 * features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.proj.out_features // 2
        projected = self.proj(x)
        return projected[..., :features] * gelu(projected[..., features:])


class FeedForward(nnx.Module):
    """GEGLU to four times the width, then a linear layer back."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.net = nnx.List(
            [GEGLU(width, 4 * width, rngs=rngs), Placeholder(), linear(4 * width, width, rngs=rngs)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention and feed-forward, each after a LayerNorm, each added."""

    def __init__(self, width: int, heads: int, token_dim: int, *, id_branch: bool, rngs: nnx.Rngs):
        cross_attention = DecoupledCrossAttention if id_branch else CrossAttention
        self.norm1 = layer_norm(width, rngs=rngs)
        self.attn1 = SelfAttention(width, heads, rngs=rngs)
        self.norm2 = layer_norm(width, rngs=rngs)
        self.attn2 = cross_attention(width, token_dim, heads, rngs=rngs)
        self.norm3 = layer_norm(width, rngs=rngs)
        self.ff = FeedForward(width, rngs=rngs)

    def __call__(self, x: jax.Array, context) -> jax.Array:
        """x: [B, H*W, D]; context: from `attn2.keys_values`."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """A residual stack of transformer blocks over the positions of a feature map.

    With a network's stacked parameters, its one block holds those of all (`Network.stacked`).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        layers: int,
        token_dim: int,
        *,
        groups: int,
        id_branch: bool,
        rngs: nnx.Rngs,
    ):
        # diffusers' transformers use 1e-6 here, whatever the resnets' norm_eps says.
        self.norm = GroupNorm(channels, groups, eps=1e-6, rngs=rngs)
        self.proj_in = linear(channels, channels, rngs=rngs)
        self.transformer_blocks = nnx.List(
            [
                BasicTransformerBlock(channels, heads, token_dim, id_branch=id_branch, rngs=rngs)
                for _ in range(layers)
            ]
        )
        self.proj_out = linear(channels, channels, rngs=rngs)

    @property
    def is_stacked(self) -> bool:
        scale = self.transformer_blocks[0].norm1.scale
        return scale is not None and scale.ndim == 2

    def keys_values(self, *tokens: jax.Array) -> tuple:
        """Keys and values of every block's cross-attention; see `attn2.keys_values`.

        Stacked parameters give one result, whose arrays have a first axis for the blocks.
        """
        blocks = self.transformer_blocks
        if self.is_stacked:
            return map_stack(lambda block: block.attn2.keys_values(*tokens), blocks[0])
        return tuple(block.attn2.keys_values(*tokens) for block in blocks)

    def __call__(self, x: jax.Array, context: tuple, remat: Remat = keep) -> jax.Array:
        B, H, W, C = x.shape
        hidden = self.proj_in(self.norm(x).reshape(B, H * W, C))
        if self.is_stacked:
            hidden = scan_stack(self.transformer_blocks[0], hidden, context, remat)
        else:
            for block, block_context in zip(self.transformer_blocks, context, strict=True):
                hidden = remat(block)(hidden, block_context)
        return self.proj_out(hidden).reshape(B, H, W, C) + x


class DownBlock2D(nnx.Module):
    """Resnets, each followed by a transformer if the block has cross-attention, then downsampling.

    diffusers' `DownBlock2D`, or with `transformer` its `CrossAttnDownBlock2D`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        resnets: int,
        transformer: dict | None,
        downsample: bool,
        resnet: dict,
        rngs: nnx.Rngs,
    ):
        """`resnet`, `transformer`: the other arguments of ResnetBlock2D and Transformer2DModel."""
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    channels_in if i == 0 else channels_out, channels_out, **resnet, rngs=rngs
                )
                for i in range(resnets)
            ]
        )
        self.attentions = (
            None if transformer is None else _transformers(channels_out, resnets, transformer, rngs)
        )
        self.downsamplers = (
            nnx.List([Downsample2D(channels_out, rngs=rngs)]) if downsample else None
        )

    def keys_values(self, *tokens: jax.Array) -> tuple:
        return _keys_values(self.attentions, tokens)

    def __call__(
        self, x: jax.Array, time: jax.Array, context: tuple, remat: Remat = keep
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Returns the output, and the outputs of all layers as skips."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = remat(resnet)(x, time)
            if self.attentions is not None:
                x = self.attentions[i](x, context[i], remat)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class UpBlock2D(nnx.Module):
    """Resnets with one skip each, transformers as in `DownBlock2D`, then upsampling."""

    def __init__(
        self,
        channels_in: int,
        channels_skip: list[int],
        channels_out: int,
        *,
        transformer: dict | None,
        upsample: bool,
        resnet: dict,
        rngs: nnx.Rngs,
    ):
        """`channels_skip`: channels of the skips, in the order of use."""
        self.resnets = nnx.List(
            [
                ResnetBlock2D(
                    (channels_in if i == 0 else channels_out) + skip,
                    channels_out,
                    **resnet,
                    rngs=rngs,
                )
                for i, skip in enumerate(channels_skip)
            ]
        )
        self.attentions = (
            None
            if transformer is None
            else _transformers(channels_out, len(channels_skip), transformer, rngs)
        )
        self.upsamplers = nnx.List([Upsample2D(channels_out, rngs=rngs)]) if upsample else None

    def keys_values(self, *tokens: jax.Array) -> tuple:
        return _keys_values(self.attentions, tokens)

    def __call__(
        self,
        x: jax.Array,
        skips: list[jax.Array],
        time: jax.Array,
        context: tuple,
        remat: Remat = keep,
        factors: jax.Array | None = None,
    ) -> jax.Array:
        """Pops its skips from the end of `skips`.

        factors: [2, B], FreeU's for backbone and skips.
        """
        for i, resnet in enumerate(self.resnets):
            skip = skips.pop()
            if factors is not None:
                x, skip = freeu(x, skip, *factors)
            x = remat(resnet)(jnp.concatenate([x, skip], axis=-1), time)
            if self.attentions is not None:
                x = self.attentions[i](x, context[i], remat)
        if self.upsamplers is not None:
            _, height, width, _ = skips[-1].shape
            x = self.upsamplers[0](x, (height, width))
        return x


class UNetMidBlock2DCrossAttn(nnx.Module):
    """A resnet, a transformer, a resnet."""

    def __init__(self, channels: int, *, transformer: dict, resnet: dict, rngs: nnx.Rngs):
        self.attentions = _transformers(channels, 1, transformer, rngs)
        self.resnets = nnx.List(
            [ResnetBlock2D(channels, channels, **resnet, rngs=rngs) for _ in range(2)]
        )

    def keys_values(self, *tokens: jax.Array) -> tuple:
        return _keys_values(self.attentions, tokens)

    def __call__(
        self, x: jax.Array, time: jax.Array, context: tuple, remat: Remat = keep
    ) -> jax.Array:
        x = self.attentions[0](remat(self.resnets[0])(x, time), context[0], remat)
        return remat(self.resnets[1])(x, time)


def _transformers(channels: int, count: int, transformer: dict, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([Transformer2DModel(channels, **transformer, rngs=rngs) for _ in range(count)])


def _keys_values(attentions: nnx.List | None, tokens: tuple[jax.Array, ...]) -> tuple:
    return () if attentions is None else tuple(a.keys_values(*tokens) for a in attentions)
