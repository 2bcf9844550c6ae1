"""Layers with PyTorch's semantics: sets every epsilon, padding and activation.

Layers compute in the dtype of their weights: float32 matches PyTorch, bfloat16 is faster. Norm
statistics are always float32.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx


def kernel_init(rngs: nnx.Rngs) -> nnx.Initializer:
    """LeCun's normal distribution; zeros for shapes alone, which take less time to trace."""
    if getattr(rngs, "shapes_only", False):
        return nnx.initializers.zeros_init()
    return nnx.initializers.lecun_normal()


def linear(features_in: int, features_out: int, *, bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
    init = kernel_init(rngs)
    return nnx.Linear(features_in, features_out, use_bias=bias, kernel_init=init, rngs=rngs)


def conv3x3(channels_in: int, channels_out: int, *, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    # torch pads both sides by one; "SAME" would pad only the far side when the stride is 2.
    options = {"strides": stride, "padding": 1, "kernel_init": kernel_init(rngs)}
    return nnx.Conv(channels_in, channels_out, (3, 3), **options, rngs=rngs)


def conv1x1(channels_in: int, channels_out: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    init = kernel_init(rngs)
    return nnx.Conv(channels_in, channels_out, (1, 1), padding=0, kernel_init=init, rngs=rngs)


class GroupNorm(nnx.Module):
    """Normalizes [B, ..., C] over positions and the channels of each group, as torch does.

    E[x²]-E[x]² needs one pass over the data but loses precision when |mean| >> std. That is below
    the rounding of 16-bit inputs; float32 inputs get a second pass.
    """

    def __init__(self, channels: int, groups: int, *, eps: float, rngs: nnx.Rngs):
        self.groups = groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        grouped = x.astype(jnp.float32).reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        mean = grouped.mean((1, 3), keepdims=True)
        if x.dtype == jnp.float32:
            variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
        else:
            squares = jnp.square(grouped).mean((1, 3), keepdims=True)
            variance = jnp.maximum(squares - jnp.square(mean), 0)
        scale, bias = (x.reshape(1, 1, self.groups, -1) for x in (self.scale, self.bias))
        factor = jax.lax.rsqrt(variance + self.eps) * scale
        # One multiply-add per element, without intermediates in memory.
        normed = grouped * factor + (bias - mean * factor)
        return normed.reshape(x.shape).astype(x.dtype)


def layer_norm(features: int, *, eps: float = 1e-5, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # torch's default epsilon is 1e-5, Flax's 1e-6.
    return nnx.LayerNorm(features, epsilon=eps, use_fast_variance=False, rngs=rngs)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU in float32, torch's default.

    jax.nn.gelu is the tanh approximation or, if exact, an erfc in the input dtype, which is slower
    than this erf: on an H200 it doubled the time of a memory-bound GEGLU.
    """
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Doubles [B, H, W, C], cropped to `size` if the larger map has an odd side.

    Equal to torch's nearest interpolation to sizes 2H or 2H - 1 (index i reads i // 2).
    """
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, : size[0], : size[1], :]


def sinusoidal_embedding(
    values: jax.Array, dim: int, *, flip_sin_to_cos: bool = True, freq_shift: float = 0.0
) -> jax.Array:
    """Embeds scalars as sines and cosines of geometric frequencies: [B] float32 to [B, dim].

    Source: Vaswani et al. 2017; diffusers/models/embeddings.py:get_timestep_embedding.
    """
    half = dim // 2
    exponent = -jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = values.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    embedding = jnp.concatenate([cosine, sine] if flip_sin_to_cos else [sine, cosine], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class Placeholder(nnx.Module):
    """A layer without weights (dropout 0, an activation) that keeps torch's list indices."""


class TimestepEmbedding(nnx.Module):
    """Two linear layers with SiLU between (diffusers/models/embeddings.py:TimestepEmbedding)."""

    def __init__(self, features_in: int, features: int, *, rngs: nnx.Rngs):
        self.linear_1 = linear(features_in, features, rngs=rngs)
        self.linear_2 = linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        # The sinusoid is float32; from here on, the weights determine the dtype.
        x = x.astype(self.linear_1.kernel.dtype)
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
