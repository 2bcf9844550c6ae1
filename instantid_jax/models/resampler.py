"""The Resampler: from one face embedding to 16 ID tokens.

Source: Alayrac et al. 2022 (Perceiver Resampler, section 3.1); Ye et al. 2023 (IP-Adapter Plus).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.attention import attention, merge_heads, split_heads
from instantid_jax.models.layers import Placeholder, gelu, layer_norm, linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """Sizes of the Resampler; the defaults are those of the published InstantID adapter.

    Attributes:
      dim: width of the queries.
      depth: number of layers.
      dim_head: width of an attention head.
      inner_dim: width of all heads together.
      num_queries: number of ID tokens per face.
      embedding_dim: length of a face embedding.
      output_dim: width of an ID token, the UNet's cross_attention_dim.
      ff_inner_dim: hidden width of the feed-forward layers.
    """

    dim: int = 1280
    depth: int = 4
    dim_head: int = 64
    inner_dim: int = 1280
    num_queries: int = 16
    embedding_dim: int = 512
    output_dim: int = 2048
    ff_inner_dim: int = 5120

    def __post_init__(self):
        if self.inner_dim % self.dim_head:
            raise InputError(
                f"the Resampler's attention width {self.inner_dim} must be a multiple of its head "
                f"size {self.dim_head}: set dim_head in a config.json next to the file"
            )

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], dim_head: int = 64) -> Self:
        """Reads the sizes from torch's `image_proj` tensors, which do not determine the head size.

        Raises:
          InputError: if a required tensor is missing or has another rank.
        """

        def size(name: str, rank: int, axis: int) -> int:
            if name not in shapes or len(shapes[name]) != rank:
                raise InputError(
                    f"the adapter's Resampler has no {rank}-dimensional tensor {name} "
                    f"(found {shapes.get(name, 'none')}): not an InstantID adapter"
                )
            return shapes[name][axis]

        depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
        return cls(
            dim=size("latents", 3, 2),
            depth=depth,
            dim_head=dim_head,
            inner_dim=size("layers.0.0.to_q.weight", 2, 0),
            num_queries=size("latents", 3, 1),
            embedding_dim=size("proj_in.weight", 2, 1),
            output_dim=size("proj_out.weight", 2, 0),
            ff_inner_dim=size("layers.0.1.1.weight", 2, 0),
        )


class PerceiverAttention(nnx.Module):
    """The latents attend to the embedding and to themselves."""

    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        self.heads = config.inner_dim // config.dim_head
        self.norm1 = layer_norm(config.dim, rngs=rngs)
        self.norm2 = layer_norm(config.dim, rngs=rngs)
        self.to_q = linear(config.dim, config.inner_dim, bias=False, rngs=rngs)
        self.to_kv = linear(config.dim, 2 * config.inner_dim, bias=False, rngs=rngs)
        self.to_out = linear(config.inner_dim, config.dim, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, latents: jax.Array) -> jax.Array:
        """x: [B, n, D]; latents: [B, N, D]."""
        x, latents = self.norm1(x), self.norm2(latents)
        query = split_heads(self.to_q(latents), self.heads)
        keys_values = self.to_kv(jnp.concatenate([x, latents], axis=1))
        # Keys first, then values: the first half of the rows of torch's to_kv.
        key, value = (split_heads(half, self.heads) for half in jnp.split(keys_values, 2, axis=-1))
        return self.to_out(merge_heads(attention(query, key, value)))


class Resampler(nnx.Module):
    """Face embeddings [B, embedding_dim] to ID tokens [B, N, output_dim]."""

    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        shape = (1, config.num_queries, config.dim)
        self.latents = nnx.Param(jax.random.normal(rngs.params(), shape) / config.dim**0.5)
        self.proj_in = linear(config.embedding_dim, config.dim, rngs=rngs)
        # As in torch, each layer is a list of an attention and a feed-forward list.
        self.layers: nnx.List[Any] = nnx.List(
            [
                nnx.List(
                    [
                        PerceiverAttention(config, rngs=rngs),
                        nnx.List(
                            [
                                layer_norm(config.dim, rngs=rngs),
                                linear(config.dim, config.ff_inner_dim, bias=False, rngs=rngs),
                                Placeholder(),
                                linear(config.ff_inner_dim, config.dim, bias=False, rngs=rngs),
                            ]
                        ),
                    ]
                )
                for _ in range(config.depth)
            ]
        )
        self.proj_out = linear(config.dim, config.output_dim, rngs=rngs)
        self.norm_out = layer_norm(config.output_dim, rngs=rngs)

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        """embeddings: [B, embedding_dim], raw from the face recognizer, not normalized."""
        x = self.proj_in(embeddings.astype(self.proj_in.kernel.dtype))[:, None, :]
        latents = jnp.broadcast_to(self.latents[...], (x.shape[0], *self.latents.shape[1:]))
        for attend, (norm, expand, _, contract) in self.layers:
            latents = attend(x, latents) + latents
            latents = contract(gelu(expand(norm(latents)))) + latents
        return self.norm_out(self.proj_out(latents))
