"""The compiled programs of sampling. Each is pure; networks and rules are static arguments.

A picture takes one call each of `encode_text`, `encode_id`, `prepare` and `begin`, a `denoise` for
every step, and one `decode`. Numbers that a user changes between pictures are arrays, so they
compile nothing new; nor is anything computed outside these programs, where JAX would compile a
program for each operation. On a sampling mesh that is set, each says where its arrays lie.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from instantid_jax.compilation import compiled
from instantid_jax.diffusion.guidance import classifier_free_guidance
from instantid_jax.diffusion.rules import Row, State, StepRule
from instantid_jax.params import Network, Params
from instantid_jax.sharding import split_halves, split_maps, split_pictures


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a model; `controlnets` has IdentityNet first."""

    unet: Network
    controlnets: tuple[Network, ...]
    image_proj: Network
    vae: Network
    text_encoder: Network
    text_encoder_2: Network


class ControlNetConditions(NamedTuple):
    """What one ControlNet needs and does not change across steps."""

    context: dict[str, tuple]
    added: jax.Array
    picture: jax.Array


class Conditions(NamedTuple):
    """What the networks need and does not change across steps; 2B rows under guidance."""

    context: dict[str, tuple]
    added: jax.Array
    controlnets: tuple[ControlNetConditions, ...]


class Prompts(NamedTuple):
    """Prompts as the networks take them.

    Attributes:
      text: [B, L, D], hidden states of both text encoders side by side.
      pooled: [B, P], the pooled state of the second.
    """

    text: jax.Array
    pooled: jax.Array


@compiled(static_argnames=("networks", "clip_skip"))
def encode_text(
    networks: Networks,
    params: tuple[Params, Params],
    input_ids: tuple[jax.Array, jax.Array],
    clip_skip: int,
) -> Prompts:
    """Encodes token ids [B, L] with either text encoder."""
    first, second = (
        network.bind(weights)(ids, clip_skip)
        for network, weights, ids in zip(
            (networks.text_encoder, networks.text_encoder_2), params, input_ids, strict=True
        )
    )
    text = jnp.concatenate([first.hidden_states, second.hidden_states], axis=-1)
    return Prompts(text, second.pooled)


@compiled(static_argnames=("network",))
def encode_id(network: Network, params: Params, embeddings: jax.Array) -> jax.Array:
    """Face embeddings [B, E] to ID tokens [B, N, D]."""
    return network.bind(params)(embeddings)


@compiled(static_argnames=("networks", "repeats"))
def prepare(
    networks: Networks,
    repeats: int,
    params: dict[str, Params | tuple[Params, ...]],
    positive: Prompts,
    negative: Prompts | None,
    time_ids: jax.Array,
    id_tokens: jax.Array,
    empty_id: jax.Array,
    ip_adapter_scale: jax.Array,
    pictures: tuple[jax.Array, ...],
) -> Conditions:
    """Computes all that denoising needs and that does not change across its steps.

    Args:
      repeats: pictures of each prompt.
      positive: B prompts.
      negative: as many, for guidance; None without. All that is told for each picture then has
        twice the rows, the negative ones first.
      time_ids: [B, 6] float32; under guidance [2B, 6].
      id_tokens: [B, N, D]; empty_id: [1, N, D], the negative rows' under guidance.
      ip_adapter_scale: scalar.
      pictures: for each ControlNet [B, H, W, 3] uint8.
    """
    unet = networks.unet.bind(params["unet"])
    dtype = unet.conv_in.kernel.dtype
    guidance = negative is not None

    def rows(*halves: jax.Array) -> jax.Array:
        halves = halves if guidance else halves[1:]
        return jnp.repeat(jnp.concatenate(halves), repeats, axis=0).astype(dtype)

    negative = negative if guidance else positive
    text = split_halves(rows(negative.text, positive.text))
    pooled = split_halves(rows(negative.pooled, positive.pooled))
    id_tokens = split_halves(rows(jnp.broadcast_to(empty_id, id_tokens.shape), id_tokens))
    time_ids = split_halves(jnp.repeat(time_ids, repeats, axis=0))
    controlnets = []
    for i, network in enumerate(networks.controlnets):
        controlnet = network.bind(params["controlnets"][i])
        picture = split_pictures(pictures[i].astype(jnp.float32) / 255)
        picture = controlnet.embed_picture(picture)
        controlnets.append(
            ControlNetConditions(
                # IdentityNet attends to the person in place of the text.
                context=controlnet.keys_values(id_tokens if i == 0 else text),
                added=controlnet.embed_added(pooled, time_ids),
                picture=split_maps(rows(picture, picture)),
            )
        )
    return Conditions(
        context=unet.keys_values(text, id_tokens, ip_adapter_scale),
        added=unet.embed_added(pooled, time_ids),
        controlnets=tuple(controlnets),
    )


@compiled(static_argnames=("rule",))
def begin(rule: StepRule, noise: jax.Array, init_noise_sigma: jax.Array) -> State:
    """The state before the first step, from unit noise [B, H, W, 4]."""
    return _split_state(rule.init(noise * init_noise_sigma))


@compiled(static_argnames=("networks", "rule", "guidance"), donate_argnames=("state",))
def denoise(
    networks: Networks,
    rule: StepRule,
    guidance: bool,
    params: dict[str, Params | tuple[Params, ...]],
    state: State,
    conditions: Conditions,
    row: Row,
    timestep: jax.Array,
    guidance_scale: jax.Array,
    residual_scales: jax.Array,
    noise: jax.Array | None,
) -> tuple[State, jax.Array]:
    """One denoising step.

    Args:
      state: of the rule; `sample` is [B, H, W, 4].
      row: the step's coefficients; timestep: scalar float32, what the networks are told.
      guidance_scale: scalar, unused without guidance.
      residual_scales: [ControlNets, residuals, R] float32: strength, window and guess mode in one.
      noise: [B, H, W, 4] for stochastic samplers, else None.
    Returns:
      The next state, and whether each of the B samples is finite.
    """
    unet = networks.unet.bind(params["unet"])
    sample = rule.scale_input(state, row)
    if guidance:
        sample = jnp.concatenate([sample, sample])
    sample = split_maps(sample.astype(unet.conv_in.kernel.dtype))
    timesteps = jnp.broadcast_to(timestep, sample.shape[:1])
    total = None
    for i, network in enumerate(networks.controlnets):
        controlnet = network.bind(params["controlnets"][i])
        context, added, picture = conditions.controlnets[i]
        residuals = [
            residual * scale.astype(residual.dtype)[:, None, None, None]
            for residual, scale in zip(
                controlnet(sample, timesteps, context, added, picture),
                residual_scales[i],
                strict=True,
            )
        ]
        total = (
            residuals if total is None else [a + b for a, b in zip(total, residuals, strict=True)]
        )
    output = unet(sample, timesteps, conditions.context, conditions.added, total)
    if guidance:
        output = classifier_free_guidance(output, guidance_scale)
    state = _split_state(rule.step(state, output, row, noise))
    return state, jnp.isfinite(state["sample"]).all(axis=(1, 2, 3))


@compiled(static_argnames=("network", "at_once", "dtype"))
def decode(
    network: Network,
    at_once: int,
    dtype: jnp.dtype,
    params: Params,
    latents: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Some of the latents [B, H, W, 4] to pictures: decoding takes more memory than all else.

    Args:
      at_once: how many, a divisor of B: one for each of `data`.
      dtype: uint8, or float32 for [0, 1], where NaN stays.
      index: scalar int32 in [0, B / at_once).
    Returns:
      Pictures index, index + B / at_once, ...: [at_once, 8H, 8W, 3], and whether each is finite.
    """
    # The parts of a mesh each hold pictures that follow each other, and decode one of them.
    parts = latents.reshape(at_once, -1, *latents.shape[1:])
    some = jax.lax.dynamic_index_in_dim(parts, index, axis=1, keepdims=False)
    pictures = network.bind(params).decode(split_pictures(some)).astype(jnp.float32)
    pictures = split_pictures(pictures)
    finite = jnp.isfinite(pictures).all(axis=(1, 2, 3))
    pictures = jnp.clip(pictures / 2 + 0.5, 0.0, 1.0)
    if dtype == jnp.uint8:
        pictures = jnp.round(pictures * 255)
    return pictures.astype(dtype), finite


@compiled(static_argnames=("shape",))
def draw_noise(seeds: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit noise [B, *shape] from fold_in(seed, step): the same alone and in a batch.

    seeds: [B] uint32. step: scalar uint32.
    """

    def draw(seed: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), step), shape)

    return split_pictures(jax.vmap(draw)(seeds))


def _split_state(state: State) -> State:
    return {name: split_pictures(value) for name, value in state.items()}
