"""The attention entry point, and the attention layers of the diffusion networks."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from instantid_jax.models import splash
from instantid_jax.models.layers import linear
from instantid_jax.sharding import BATCH_AXES, HALVES

Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Limit on the logits of a head without a fused kernel: 4096 x 4096 in float32 is 64 MiB per head.
MAX_LOGITS = 4096 * 4096 - 1


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False
) -> jax.Array:
    """Scaled dot-product attention with float32 softmax, on the mesh of the context.

    Args:
      query: [B, Lq, K, d].
      key, value: [B, Lk, K, d].
      causal: position i attends to positions up to i.
    Returns:
      [B, Lq, K, d] in the dtype of `query`.
    """
    if causal:
        # Only for text of 77 tokens, where a fused kernel would not matter.
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="xla")
    head_dim = query.shape[-1]
    fits_cudnn = query.dtype.itemsize == 2 and head_dim <= 128 and head_dim % 8 == 0
    platform = _platform()
    if platform == "tpu" and splash.fits(query, key):
        return _on_each_device(splash.splash_attention, query, key, value)
    if platform == "gpu" and fits_cudnn:
        return _on_each_device(_cudnn_attention, query, key, value)
    return _on_each_device(_attention_in_blocks, query, key, value)


@jax.custom_vjp
def _cudnn_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    # Explicit, because implementation=None always selects XLA.
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _cudnn_forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
    return jax.vjp(_cudnn_attention_of_even_lengths, query, key, value)


def _cudnn_backward(pull_back: Any, gradient: jax.Array) -> tuple[jax.Array, ...]:
    return pull_back(gradient)


_cudnn_attention.defvjp(_cudnn_forward, _cudnn_backward)


def _cudnn_attention_of_even_lengths(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    """Pads to even lengths: JAX 0.11 rejects odd ones, such as 77, in the backward pass.

    Sampling has no backward pass and does not pad.
    """
    positions, tokens = query.shape[1], key.shape[1]
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    lengths = jnp.full(len(key), tokens, jnp.int32) if tokens % 2 else None
    attended = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return attended[:, :positions]


def _on_each_device(
    kernel: Attention, query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    """Runs a kernel in `jax.shard_map` on the mesh of the context.

    The compiler cannot partition a kernel, or a loop over blocks. Shards the batch over its axes,
    heads over `tensor` and query positions over `rows`, where these divide them. Replicates keys.
    """
    mesh = jax.sharding.get_abstract_mesh()
    auto = {
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }
    if not auto:
        return kernel(query, key, value)
    of_batch = HALVES if "guidance" in mesh.axis_names else BATCH_AXES
    batch = _dividing(mesh, [axis for axis in of_batch if axis in auto], query.shape[0])
    heads = _dividing(mesh, auto & {"tensor"}, query.shape[2])
    positions = _dividing(mesh, auto & {"rows"}, query.shape[1])
    spec, of_keys = (PartitionSpec(batch, axes, heads, None) for axes in (positions, None))
    return jax.shard_map(
        kernel,
        in_specs=(spec, of_keys, of_keys),
        out_specs=spec,
        axis_names=auto,
        check_vma=False,
    )(query, key, value)


def _dividing(mesh: AbstractMesh, axes: Iterable[str], size: int) -> tuple[str, ...] | None:
    """The longest suffix of the axes whose product divides a size.

    In decoding, with one image per `data` and no second half, this keeps images in place.
    """
    axes = tuple(axes)
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[1:]
    return axes or None


def _platform() -> str:
    """The platform to compile for; the mesh's devices may be absent."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def _attention_in_blocks(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """XLA attention over sequential blocks of queries, which limits the memory for logits."""
    B, L, K, d = query.shape
    blocks = -(-L * key.shape[1] // MAX_LOGITS)
    by_xla = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    if blocks == 1:
        return by_xla(query, key, value)
    length = -(-L // blocks)
    padded = jnp.pad(query, ((0, 0), (0, blocks * length - L), (0, 0), (0, 0)))
    padded = padded.reshape(B, blocks, length, K, d).swapaxes(0, 1)  # [blocks, B, length, K, d]
    # Otherwise the loop would save every block's probabilities for the backward pass.
    one = jax.checkpoint(lambda block: by_xla(block, key, value))
    out = jax.lax.map(one, padded)
    return out.swapaxes(0, 1).reshape(B, blocks * length, K, d)[:, :L]


class KeysValues(NamedTuple):
    """Keys and values of one attention layer, each [B, L, K, d]."""

    keys: jax.Array
    values: jax.Array


class Branch(NamedTuple):
    """Tokens that a decoupled cross-attention attends to in addition to the text.

    Attributes:
      keys, values: [B, N, K, d]; the branch's strength is in the values.
      mask: [B, H * W, 1], the weight of each position; None is 1 everywhere.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array | None = None


class DecoupledKeysValues(NamedTuple):
    """Keys and values of a decoupled cross-attention: of the text, and of images such as faces."""

    text: KeysValues
    images: tuple[Branch, ...]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)  # [B, L, K, d]


def merge_heads(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])  # [B, L, D]


class SelfAttention(nnx.Module):
    """Multi-head self-attention without biases on query, key and value (`attn1`).

    Attributes:
      perturbed: how many rows at the end of a batch attend to themselves alone.
    """

    perturbed: int = 0

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.to_q = linear(width, width, bias=False, rngs=rngs)
        self.to_k = linear(width, width, bias=False, rngs=rngs)
        self.to_v = linear(width, width, bias=False, rngs=rngs)
        self.to_out = nnx.List([linear(width, width, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (
            split_heads(to(x), self.heads) for to in (self.to_q, self.to_k, self.to_v)
        )
        if not self.perturbed:
            return self.to_out[0](merge_heads(attention(query, key, value)))
        whole = len(x) - self.perturbed
        attended = attention(query[:whole], key[:whole], value[:whole])
        return self.to_out[0](merge_heads(jnp.concatenate([attended, value[whole:]])))


class CrossAttention(nnx.Module):
    """Multi-head cross-attention with precomputed keys and values (`attn2`)."""

    def __init__(self, width: int, token_dim: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.to_q = linear(width, width, bias=False, rngs=rngs)
        self.to_k = linear(token_dim, width, bias=False, rngs=rngs)
        self.to_v = linear(token_dim, width, bias=False, rngs=rngs)
        self.to_out = nnx.List([linear(width, width, rngs=rngs)])

    def keys_values(self, tokens: jax.Array) -> KeysValues:
        """tokens: [B, L, token_dim]. Computed once, not per denoising step."""
        return KeysValues(
            split_heads(self.to_k(tokens), self.heads), split_heads(self.to_v(tokens), self.heads)
        )

    def __call__(self, x: jax.Array, context: KeysValues) -> jax.Array:
        query = split_heads(self.to_q(x), self.heads)
        return self.to_out[0](merge_heads(attention(query, *context)))


class DecoupledCrossAttention(CrossAttention):
    """Cross-attention to the text plus, with separate keys and values, to the ID tokens.

    softmax(q kᵀ) v + scale · softmax(q k_idᵀ) v_id, one query for both, then the output layer.
    Source: Ye et al. 2023 (IP-Adapter), eq. 5; InstantID (Wang et al. 2024), section 3.
    """

    def __init__(self, width: int, token_dim: int, heads: int, *, rngs: nnx.Rngs):
        super().__init__(width, token_dim, heads, rngs=rngs)
        self.to_k_ip = linear(token_dim, width, bias=False, rngs=rngs)
        self.to_v_ip = linear(token_dim, width, bias=False, rngs=rngs)

    def keys_values(
        self, text: jax.Array, id_tokens: jax.Array, ip_adapter_scale: jax.Array
    ) -> DecoupledKeysValues:
        """text: [B, L, token_dim]; id_tokens: [B, N, token_dim]; ip_adapter_scale: [B] or scalar.

        Folds the scale into the ID values, so it adds no work to a step.
        """
        scale = ip_adapter_scale.astype(id_tokens.dtype).reshape(-1, 1, 1)
        keys = split_heads(self.to_k_ip(id_tokens), self.heads)
        values = split_heads(self.to_v_ip(id_tokens) * scale, self.heads)
        return DecoupledKeysValues(super().keys_values(text), (Branch(keys, values),))

    def __call__(self, x: jax.Array, context: DecoupledKeysValues) -> jax.Array:
        query = split_heads(self.to_q(x), self.heads)
        hidden = attention(query, *context.text)
        for branch in context.images:
            image = attention(query, branch.keys, branch.values)
            hidden = hidden + (image if branch.mask is None else branch.mask[..., None] * image)
        return self.to_out[0](merge_heads(hidden))
