"""Layers with PyTorch's semantics: every epsilon, padding and activation is set here, once.

Compute follows the dtype of the weights: bind float32 parameters for PyTorch's numbers, bfloat16
ones for speed. Norm statistics are float32 in either case.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def linear(features_in: int, features_out: int, *, bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(features_in, features_out, use_bias=bias, rngs=rngs)


def conv3x3(channels_in: int, channels_out: int, *, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    # torch pads both sides by one; "SAME" would pad only the far side when the stride is 2.
    return nnx.Conv(channels_in, channels_out, (3, 3), strides=stride, padding=1, rngs=rngs)


def conv1x1(channels_in: int, channels_out: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(channels_in, channels_out, (1, 1), padding=0, rngs=rngs)


def group_norm(channels: int, groups: int, *, eps: float, rngs: nnx.Rngs) -> nnx.GroupNorm:
    # Flax's default variance E[x²]-E[x]² loses precision when |mean| >> std; torch's does not.
    return nnx.GroupNorm(
        channels, num_groups=groups, epsilon=eps, use_fast_variance=False, rngs=rngs
    )


def layer_norm(features: int, *, eps: float = 1e-5, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # torch's default epsilon is 1e-5, Flax's 1e-6.
    return nnx.LayerNorm(features, epsilon=eps, use_fast_variance=False, rngs=rngs)


def gelu(x: jax.Array) -> jax.Array:
    # torch's default is the exact erf form; jax.nn.gelu's is the tanh approximation.
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Doubles [B, H, W, C], cropped to `size` where the larger map has an odd side.

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
    """Keeps torch's index for a layer without weights (dropout 0, an activation) in a list."""


class TimestepEmbedding(nnx.Module):
    """Two linear layers with SiLU between (diffusers/models/embeddings.py:TimestepEmbedding)."""

    def __init__(self, features_in: int, features: int, *, rngs: nnx.Rngs):
        self.linear_1 = linear(features_in, features, rngs=rngs)
        self.linear_2 = linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        # The sinusoid is float32; the weights decide the dtype from here on.
        x = x.astype(self.linear_1.kernel.dtype)
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
