"""The CLIP text encoders: CLIP-L (`text_encoder`) and OpenCLIP bigG (`text_encoder_2`).

Source: Radford et al. 2021; transformers/models/clip/modeling_clip.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.attention import attention, merge_heads, split_heads
from instantid_jax.models.config import config_from_json
from instantid_jax.models.layers import gelu, layer_norm, linear, quick_gelu

ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPEncoderConfig:
    """The transformer of a text or image encoder, with transformers' names.

    `causal`: whether a position attends only to those before it.
    """

    what: ClassVar[str]
    causal: ClassVar[bool]
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    def __post_init__(self):
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"{self.what}: hidden_act={self.hidden_act!r} is not supported, "
                f"expected {' or '.join(map(repr, ACTIVATIONS))}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(CLIPEncoderConfig):
    """Field names follow transformers' `config.json`; the defaults are CLIP-L's sizes.

    `with_projection`: CLIPTextModelWithProjection, which projects the pooled output.
    """

    what: ClassVar[str] = "text encoder"
    causal: ClassVar[bool] = True
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407
    with_projection: bool = False

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads a `config.json`; `architectures` determines `with_projection`."""
        with_projection = "CLIPTextModelWithProjection" in settings.get("architectures", ())
        settings = dict(settings) | {"with_projection": with_projection}
        return config_from_json(cls, settings, only={"model_type": "clip_text_model"})


class TextEmbeddings(NamedTuple):
    """Attributes:
    hidden_states: [B, L, hidden_size] after the selected layer, not normalized.
    pooled: [B, projection_dim], or [B, hidden_size] without a projection.
    """

    hidden_states: jax.Array
    pooled: jax.Array


class CLIPAttention(nnx.Module):
    def __init__(self, config: CLIPEncoderConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.causal = config.causal
        self.heads = config.num_attention_heads
        self.q_proj = linear(width, width, rngs=rngs)
        self.k_proj = linear(width, width, rngs=rngs)
        self.v_proj = linear(width, width, rngs=rngs)
        self.out_proj = linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (
            split_heads(proj(x), self.heads) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(merge_heads(attention(query, key, value, causal=self.causal)))


class CLIPMLP(nnx.Module):
    def __init__(self, config: CLIPEncoderConfig, *, rngs: nnx.Rngs):
        self.activation = config.hidden_act
        self.fc1 = linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    def __init__(self, config: CLIPEncoderConfig, *, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = layer_norm(width, eps=eps, rngs=rngs)
        self.self_attn = CLIPAttention(config, rngs=rngs)
        self.layer_norm2 = layer_norm(width, eps=eps, rngs=rngs)
        self.mlp = CLIPMLP(config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextEmbeddings(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.token_embedding = nnx.Embed(config.vocab_size, width, rngs=rngs)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, width, rngs=rngs)

    def __call__(self, input_ids: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        positions = jnp.arange(input_ids.shape[1])
        if vectors is None:
            tokens = self.token_embedding(input_ids)
        else:
            tokens = self.token_embedding(jnp.maximum(input_ids, 0))
            tokens = jnp.where((input_ids < 0)[..., None], vectors.astype(tokens.dtype), tokens)
        return tokens + self.position_embedding(positions)[None]


class CLIPEncoder(nnx.Module):
    def __init__(self, config: CLIPEncoderConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [CLIPEncoderLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )


class CLIPTextTransformer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.embeddings = CLIPTextEmbeddings(config, rngs=rngs)
        self.encoder = CLIPEncoder(config, rngs=rngs)
        self.final_layer_norm = layer_norm(config.hidden_size, eps=config.layer_norm_eps, rngs=rngs)


class CLIPTextModel(nnx.Module):
    """A causal transformer over token ids, with or without a projection of the pooled output."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text_model = CLIPTextTransformer(config, rngs=rngs)
        self.text_projection = (
            linear(config.hidden_size, config.projection_dim, bias=False, rngs=rngs)
            if config.with_projection
            else None
        )

    def __call__(
        self, input_ids: jax.Array, clip_skip: int = 0, vectors: jax.Array | None = None
    ) -> TextEmbeddings:
        """Encodes [B, L] int32 token ids.

        Args:
          clip_skip: 0 takes the hidden states of the penultimate layer, as SDXL does, 1 those of
            the layer before it, and so on.
          vectors: [B, L, hidden_size], which replace the rows of the token table where an id is
            negative. transformers gives textual inversions new ids instead; these are above the
            end-of-text token's, so that models pooled at the highest id pool one of them.
        Raises:
          InputError: if there is no such layer.
        """
        model, config = self.text_model, self.config
        wanted = config.num_hidden_layers - 1 - clip_skip
        if clip_skip < 0 or wanted < 0:
            raise InputError(
                f"clip_skip={clip_skip} must be from 0 to {config.num_hidden_layers - 1}: "
                f"the text encoder has {config.num_hidden_layers} layers"
            )
        x = model.embeddings(input_ids, vectors)
        states = [x]
        for layer in model.encoder.layers:
            x = layer(x)
            states.append(x)
        pooled = model.final_layer_norm(x)[jnp.arange(x.shape[0]), _end_of_text(input_ids, config)]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return TextEmbeddings(states[wanted], pooled)


def _end_of_text(input_ids: jax.Array, config: CLIPTextConfig) -> jax.Array:
    """Position of the end-of-text token, whose state is pooled: [B]."""
    if config.eos_token_id == 2:
        # Early CLIP configurations have 2; transformers then takes the highest id, the actual one.
        return jnp.argmax(input_ids, axis=-1)
    return jnp.argmax(input_ids == config.eos_token_id, axis=-1)
