"""CLIP's image encoder, a vision transformer.

Source: Radford et al. 2021; transformers/models/clip/modeling_clip.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.models.clip import CLIPEncoder, CLIPEncoderConfig
from instantid_jax.models.config import config_from_json
from instantid_jax.models.layers import kernel_init, layer_norm, linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(CLIPEncoderConfig):
    """Field names and defaults follow transformers' `config.json`."""

    what: ClassVar[str] = "image encoder"
    causal: ClassVar[bool] = False
    image_size: int = 224
    patch_size: int = 32

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads a `config.json`."""
        only = {"model_type": "clip_vision_model", "num_channels": 3}
        return config_from_json(cls, settings, only=only)


class CLIPVisionEmbeddings(nnx.Module):
    """A token for each patch after one for the class, with positions."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nnx.Param(jnp.zeros(width))
        self.patch_embedding = nnx.Conv(
            3,
            width,
            (patch, patch),
            strides=patch,
            padding=0,
            use_bias=False,
            kernel_init=kernel_init(rngs),
            rngs=rngs,
        )
        tokens = (config.image_size // patch) ** 2 + 1
        self.position_embedding = nnx.Embed(tokens, width, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        patches = self.patch_embedding(pixels)  # [B, rows, columns, D]
        patches = patches.reshape(len(patches), -1, patches.shape[-1])
        first = jnp.broadcast_to(
            self.class_embedding[...], (len(patches), 1, patches.shape[-1])
        ).astype(patches.dtype)
        tokens = jnp.concatenate([first, patches], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class CLIPVisionTransformer(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.embeddings = CLIPVisionEmbeddings(config, rngs=rngs)
        # transformers' spelling.
        self.pre_layrnorm = layer_norm(width, eps=eps, rngs=rngs)
        self.encoder = CLIPEncoder(config, rngs=rngs)
        self.post_layernorm = layer_norm(width, eps=eps, rngs=rngs)


class CLIPVisionModelWithProjection(nnx.Module):
    """A transformer over patches, whose class token is projected."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision_model = CLIPVisionTransformer(config, rngs=rngs)
        self.visual_projection = linear(
            config.hidden_size, config.projection_dim, bias=False, rngs=rngs
        )

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Encodes [B, image_size, image_size, 3] normalized pixels to [B, projection_dim]."""
        model = self.vision_model
        x = model.pre_layrnorm(model.embeddings(pixels))
        for layer in model.encoder.layers:
            x = layer(x)
        return self.visual_projection(model.post_layernorm(x[:, 0]))
