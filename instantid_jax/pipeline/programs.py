"""The compiled programs of sampling. Each is pure; networks and rules are static arguments.

A picture takes one call each of `encode_text`, `encode_id` and `prepare`, a `denoise` for every
step, and one `decode`. Numbers that a user changes between pictures are arrays, so they compile
nothing new.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from instantid_jax.diffusion.guidance import classifier_free_guidance
from instantid_jax.diffusion.rules import Row, State, StepRule
from instantid_jax.models.clip import TextEmbeddings
from instantid_jax.params import Network, Params


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


@functools.partial(jax.jit, static_argnames=("network", "clip_skip"))
def encode_text(
    network: Network, params: Params, input_ids: jax.Array, clip_skip: int
) -> TextEmbeddings:
    """Encodes token ids [B, L] with one text encoder."""
    return network.bind(params)(input_ids, clip_skip)


@functools.partial(jax.jit, static_argnames=("network",))
def encode_id(network: Network, params: Params, embeddings: jax.Array) -> jax.Array:
    """Face embeddings [B, E] to ID tokens [B, N, D]."""
    return network.bind(params)(embeddings)


@functools.partial(jax.jit, static_argnames=("networks", "guidance"))
def prepare(
    networks: Networks,
    guidance: bool,
    params: dict[str, Params | tuple[Params, ...]],
    text: jax.Array,
    pooled: jax.Array,
    time_ids: jax.Array,
    id_tokens: jax.Array,
    ip_adapter_scale: jax.Array,
    pictures: tuple[jax.Array, ...],
) -> Conditions:
    """Computes all that denoising needs and that does not change across its steps.

    Args:
      guidance: the rows are [negative, positive], 2B of them, else B.
      text: [R, L, D] hidden states of both text encoders; pooled: [R, P]; R rows.
      time_ids: [R, 6] float32.
      id_tokens: [R, N, D].
      ip_adapter_scale: scalar.
      pictures: for each ControlNet [B, H, W, 3] uint8.
    """
    unet = networks.unet.bind(params["unet"])
    dtype = unet.conv_in.kernel.dtype
    text, id_tokens = text.astype(dtype), id_tokens.astype(dtype)
    controlnets = []
    for i, network in enumerate(networks.controlnets):
        controlnet = network.bind(params["controlnets"][i])
        picture = controlnet.embed_picture(pictures[i].astype(jnp.float32) / 255)
        controlnets.append(
            ControlNetConditions(
                # IdentityNet attends to the person in place of the text.
                context=controlnet.keys_values(id_tokens if i == 0 else text),
                added=controlnet.embed_added(pooled, time_ids),
                picture=jnp.concatenate([picture, picture]) if guidance else picture,
            )
        )
    return Conditions(
        context=unet.keys_values(text, id_tokens, ip_adapter_scale),
        added=unet.embed_added(pooled, time_ids),
        controlnets=tuple(controlnets),
    )


@functools.partial(
    jax.jit, static_argnames=("networks", "rule", "guidance"), donate_argnames=("state",)
)
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
    sample = sample.astype(unet.conv_in.kernel.dtype)
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
    state = rule.step(state, output, row, noise)
    return state, jnp.isfinite(state["sample"]).all(axis=(1, 2, 3))


@functools.partial(jax.jit, static_argnames=("network",))
def decode(network: Network, params: Params, latents: jax.Array) -> jax.Array:
    """Latents [B, H, W, 4] to pictures [B, 8H, 8W, 3], float32 in [0, 1]; not a number stays."""
    pictures = network.bind(params).decode(latents).astype(jnp.float32)
    return jnp.clip(pictures / 2 + 0.5, 0.0, 1.0)


@functools.partial(jax.jit, static_argnames=("shape",))
def draw_noise(seeds: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit noise [B, *shape] from fold_in(seed, step): the same alone and in a batch.

    seeds: [B] uint32. step: scalar uint32.
    """

    def draw(seed: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), step), shape)

    return jax.vmap(draw)(seeds)
