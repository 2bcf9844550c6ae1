"""The compiled programs around the denoising step: encoding before it, decoding after it.

An image takes one call each of `encode_text`, `encode_id` and `prepare`, then the steps of
`step.py`, and one `decode`. Numbers that a user changes between images are arrays, so they compile
nothing new; nor is anything computed outside these programs, where JAX would compile a program for
each operation. On a sampling mesh that is set, each says where its arrays lie.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.compilation import compiled
from instantid_jax.models import instantid
from instantid_jax.models.instantid import Conditions, Masks, Texts
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params
from instantid_jax.pipeline.step import DenoiserParams
from instantid_jax.prompt import Tokens
from instantid_jax.sharding import split_halves, split_images, split_maps, split_tiles


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a model; `controlnets` has IdentityNet first."""

    unet: Network
    controlnets: tuple[Network, ...]
    image_proj: Network
    vae: Network
    text_encoder: Network
    text_encoder_2: Network


@compiled(static_argnames=("networks", "clip_skip"))
def encode_text(
    networks: Networks,
    params: tuple[Params, Params],
    tokens: tuple[Tokens, Tokens],
    clip_skip: int,
) -> Texts[jax.Array]:
    """Encodes prompts with either text encoder, the same program with embeddings and without.

    Each chunk is encoded by itself. The hidden states of a prompt's chunks follow one another; the
    pooled state is the first chunk's.
    """
    batch, chunks, _ = tokens[0].ids.shape

    def rows(array: jax.Array | np.ndarray) -> jax.Array:
        return jnp.reshape(array, (batch * chunks, *array.shape[2:]))

    first, second = (
        network.bind(weights)(rows(ids), clip_skip, rows(vectors))
        for network, weights, (ids, vectors) in zip(
            (networks.text_encoder, networks.text_encoder_2), params, tokens, strict=True
        )
    )
    hidden = jnp.concatenate([first.hidden_states, second.hidden_states], axis=-1)
    hidden = hidden.reshape(batch, -1, hidden.shape[-1])
    return Texts(hidden, second.pooled.reshape(batch, chunks, -1)[:, 0])


@compiled(static_argnames=("network",))
def encode_id(network: Network, params: Params, embeddings: jax.Array) -> jax.Array:
    """Face embeddings [B, E] to ID tokens [B, N, D]."""
    return network.bind(params)(embeddings)


@compiled(static_argnames=("networks", "repeats"))
def prepare(
    networks: Networks,
    repeats: int,
    params: DenoiserParams,
    positive: Texts[jax.Array],
    negative: Texts[jax.Array] | None,
    time_ids: jax.Array,
    id_tokens: tuple[jax.Array, jax.Array],
    ip_adapter_scale: jax.Array,
    images: tuple[jax.Array, ...],
    masks: Masks[jax.Array],
) -> Conditions:
    """Computes all that denoising needs and no step changes.

    Args:
      repeats: images of each prompt.
      positive: B prompts.
      negative: B negative prompts, or None without guidance. With guidance every array of the
        result has 2B rows, negatives first, each `repeats` times.
      time_ids: [B, 6] float32; with guidance [2B, 6].
      id_tokens: for the negative rows, of each image [B * repeats, N, D]; and [B, N, D].
      ip_adapter_scale: [B, transformers] float32.
      images: for each ControlNet [B, H, W, 3] uint8.
      masks: [B, H, W] float32 each.
    """
    unet = networks.unet.bind(params["unet"])
    dtype = unet.conv_in.kernel.dtype
    guidance = negative is not None

    def rows(*halves: jax.Array) -> jax.Array:
        halves = halves if guidance else halves[1:]
        return jnp.repeat(jnp.concatenate(halves), repeats, axis=0).astype(dtype)

    negative = negative if guidance else positive
    nobody, people = id_tokens
    people = jnp.repeat(people, repeats, axis=0)
    tokens = jnp.concatenate([nobody, people]) if guidance else people
    controlnets, maps = [], []
    for network, weights, image in zip(
        networks.controlnets, params["controlnets"], images, strict=True
    ):
        controlnet = network.bind(weights)
        image = controlnet.embed_image(split_images(image.astype(jnp.float32) / 255))
        controlnets.append(controlnet)
        maps.append(split_maps(rows(image, image)))
    return instantid.condition(
        unet,
        controlnets,
        Texts(
            split_halves(rows(negative.hidden, positive.hidden)),
            split_halves(rows(negative.pooled, positive.pooled)),
        ),
        split_halves(jnp.repeat(time_ids, repeats, axis=0)),
        split_halves(tokens.astype(dtype)),
        rows(ip_adapter_scale, ip_adapter_scale).T,
        maps,
        jax.tree.map(lambda mask: split_maps(rows(mask, mask)), masks),
    )


@compiled(static_argnames=("network", "repeats"))
def prepare_refiner(
    network: Network,
    repeats: int,
    params: Params,
    positive: Texts[jax.Array],
    negative: Texts[jax.Array] | None,
    time_ids: jax.Array,
) -> Conditions:
    """`prepare` for the refiner, which sees text encoder 2's states alone.

    Args:
      positive, negative: of both text encoders, as in `prepare`.
      time_ids: [B, 5] float32; with guidance [2B, 5].
    """
    unet = network.bind(params)
    dtype, width = unet.conv_in.kernel.dtype, network.config.cross_attention_dim

    def rows(*halves: jax.Array) -> jax.Array:
        return split_halves(jnp.repeat(jnp.concatenate(halves), repeats, axis=0).astype(dtype))

    texts = [positive] if negative is None else [negative, positive]
    added = unet.embed_added(
        rows(*(each.pooled for each in texts)), split_halves(jnp.repeat(time_ids, repeats, axis=0))
    )
    context = unet.keys_values(rows(*(each.hidden[..., -width:] for each in texts)))
    return Conditions(context, added, controlnets=())


@compiled(static_argnames=("network", "at_once", "dtype"))
def decode(
    network: Network,
    at_once: int,
    dtype: jnp.dtype,
    params: Params,
    latents: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Some of the latents [B, H, W, C] to images: decoding takes more memory than all else.

    Args:
      at_once: how many, a divisor of B: one for each of `data`.
      dtype: uint8, or float32 for [0, 1], where NaN stays.
      index: scalar int32 in [0, B / at_once).
    Returns:
      Images index, index + B / at_once, ...: [at_once, 8H, 8W, 3], and whether each is finite.
    """
    # Each part of a mesh holds consecutive images, and decodes one of them.
    parts = latents.reshape(at_once, -1, *latents.shape[1:])
    some = jax.lax.dynamic_index_in_dim(parts, index, axis=1, keepdims=False)
    images = network.bind(params).decode(split_images(some)).astype(jnp.float32)
    images = split_images(images)
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))
    images = jnp.clip(images / 2 + 0.5, 0.0, 1.0)
    if dtype == jnp.uint8:
        images = jnp.round(images * 255)
    return images.astype(dtype), finite


@compiled(static_argnames=("network",))
def decode_tile(network: Network, params: Params, latents: jax.Array) -> jax.Array:
    """Parts of latents [B, H, W, C] to pixels [B, 8H, 8W, 3] float32, in [-1, 1] if clipped."""
    pixels = network.bind(params).decode(split_tiles(latents))
    return split_tiles(pixels.astype(jnp.float32))


@compiled(static_argnames=("network",))
def encode_image(network: Network, params: Params, image: jax.Array) -> jax.Array:
    """Scaled latents [1, H, W, C] of an image [1, 8H, 8W, 3] in [-1, 1], without sampling."""
    return sample_latents(network.config, network.bind(params).moments(image))


@compiled(static_argnames=("network",))
def encode_colors(network: Network, params: Params, colors: jax.Array) -> jax.Array:
    """Latents [N, C] of solid images of colors [N, 3] in [-1, 1], at the images' center."""
    images = jnp.broadcast_to(colors[:, None, None, :], (len(colors), 64, 64, 3))
    return sample_latents(network.config, network.bind(params).moments(images))[:, 4, 4]
