"""The compiled denoising step: predict, guide, update. Each piece is pure.

What a user changes between images or steps is data, with a row for each image; what decides the
program is `StepProgram`. So images at different steps, of different samplers, scales and strengths
share one compiled step.
"""

import dataclasses
from typing import Generic, NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from instantid_jax.compilation import compiled
from instantid_jax.diffusion.guidance import Guidance, guide
from instantid_jax.diffusion.rules import Row, State, StepRule, per_image
from instantid_jax.models import instantid
from instantid_jax.models.instantid import Array, Conditions
from instantid_jax.models.pag import perturb
from instantid_jax.params import Network, Params
from instantid_jax.sharding import split_images, split_maps


class DenoiserParams(TypedDict):
    """The weights of a step: the UNet with the Image Adapter, and the ControlNets."""

    unet: Params
    controlnets: tuple[Params, ...]


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """All that decides which step is compiled, apart from shapes.

    Attributes:
      unet, controlnets: the networks, IdentityNet first.
      rule: the step rule that serves the samplers of all images.
      guidance: whether there is classifier-free guidance.
      perturbed: paths of the UNet's self-attentions that perturbed-attention guidance replaces;
        empty without it.
      keeps: whether each step puts the latents back that a mask keeps.
    """

    unet: Network
    controlnets: tuple[Network, ...]
    rule: StepRule
    guidance: bool
    keeps: bool = False
    perturbed: tuple[str, ...] = ()

    @property
    def halves(self) -> int:
        """How many rows of the networks' batch each image has."""
        return 2 if self.guidance else 1


class StepInputs(NamedTuple, Generic[Array]):
    """Inputs that differ from step to step; R is B, or 2B with guidance, negative rows first.

    Attributes:
      row: the samplers' coefficients, each [B] float32.
      timesteps: [R] float32, as the networks take them.
      guidance: not used without guidance.
      residual_scales: [ControlNets, residuals, R] float32: strength, window and guess mode in one.
      adapter_scales: [R] float32, the Image Adapter's window.
      noise: [B, H, W, C] unit variance if a sampler is stochastic, else None.
      kept: shares of clean latents and noise where they are kept, each [B] float32, and the least
        value of the mask where they are not; None if nothing is kept.
      freeu: [4, R] float32, factors of skips, then of the backbone, in both of FreeU's blocks; None
        without FreeU.
    """

    row: Row
    timesteps: Array
    guidance: Guidance[Array]
    residual_scales: Array
    adapter_scales: Array
    noise: jax.Array | None
    kept: tuple[Array, Array, Array] | None = None
    freeu: Array | None = None


class Known(NamedTuple):
    """Images that are kept in part, [B, H, W, C] float32.

    Attributes:
      clean: the images' latents.
      noise: that of the start, unit variance.
      mask: [B, H, W, 1], 0 where the latents are kept to the end.
      shown: [B, H, W, 1 + C], mask and latents of the masked image, for a UNet that takes them.
    """

    clean: jax.Array
    noise: jax.Array
    mask: jax.Array
    shown: jax.Array | None = None


@compiled(static_argnames=("program",), donate_argnames=("state",))
def denoise(
    program: StepProgram,
    params: DenoiserParams,
    state: State,
    conditions: Conditions,
    inputs: StepInputs[jax.Array],
    known: Known | None = None,
) -> tuple[State, jax.Array]:
    """One denoising step.

    Args:
      params: of `unet` and `controlnets`.
      state: the rule's state; `sample` is [B, H, W, C].
      conditions: of R rows.
      known: what is kept, if a mask is given or the UNet takes one.
    Returns:
      The next state, and whether each of the B samples is finite.
    """
    sample = program.rule.scale_input(state, inputs.row)
    seen = see(sample, None if known is None else known.shown)
    if program.guidance:
        seen = jnp.concatenate([seen, seen])
    output = predict(program, params, seen, conditions, inputs, images=len(sample))
    negative, perturbed = program.guidance, bool(program.perturbed)
    if negative or perturbed:
        output = guide(output, sample, inputs.guidance, negative=negative, perturbed=perturbed)
    state = program.rule.step(state, output, inputs.row, inputs.noise)
    if program.keeps:
        assert known is not None and inputs.kept is not None
        state["sample"] = keep(state["sample"], known, *inputs.kept)
    state = split_state(state)
    return state, jnp.isfinite(state["sample"]).all(axis=(1, 2, 3))


def predict(
    program: StepProgram,
    params: DenoiserParams,
    seen: jax.Array,
    conditions: Conditions,
    inputs: StepInputs[jax.Array],
    images: int,
) -> jax.Array:
    """Predicts the noise of R rows: [R, H, W, C] in the weights' dtype.

    With perturbed-attention guidance, predictions of the last `images` rows follow, perturbed.

    Args:
      seen: [R, H, W, ...], from `see`.
    """
    unet = program.unet.bind(params["unet"])
    controlnets = [
        network.bind(weights)
        for network, weights in zip(program.controlnets, params["controlnets"], strict=True)
    ]
    sample = split_maps(seen.astype(unet.conv_in.kernel.dtype))
    perturb(unet, program.perturbed, images)
    perturbed = images if program.perturbed else 0
    return instantid.predict(
        *(unet, controlnets, sample, inputs.timesteps, conditions),
        scales=inputs.residual_scales,
        freeu=None if inputs.freeu is None else _by_block(inputs.freeu, perturbed),
        adapter_scales=inputs.adapter_scales,
        perturbed=perturbed,
    )


def _by_block(freeu: jax.Array, perturbed: int) -> jax.Array:
    """FreeU's factors [4, R] as the UNet takes them: [2, 2, R + perturbed], backbone first."""
    rows = jnp.concatenate([freeu, freeu[:, freeu.shape[1] - perturbed :]], axis=1)
    return jnp.stack([rows[2:], rows[:2]], axis=1)


def see(sample: jax.Array, shown: jax.Array | None) -> jax.Array:
    """The UNet's input for samples [B, H, W, C]; `shown` is as in `Known`."""
    return sample if shown is None else jnp.concatenate([sample, shown], axis=-1)


def keep(
    sample: jax.Array, known: Known, signal: jax.Array, noise: jax.Array, released: jax.Array
) -> jax.Array:
    """The sample where its mask is released, and elsewhere the known latents, as noisy as it.

    Args:
      signal, noise, released: [B].
    Source: diffusers' StableDiffusionXLInpaintPipeline; Levin & Fried 2023, algorithm 1.
    """
    kept = per_image(signal, sample) * known.clean + per_image(noise, sample) * known.noise
    free = (known.mask >= per_image(released, sample)) & (known.mask > 0)
    return jnp.where(free, sample, kept)


@compiled(static_argnames=("rule",))
def begin_with_images(
    rule: StepRule,
    noise: jax.Array,
    clean: jax.Array,
    mask: jax.Array | None,
    masked: jax.Array | None,
    shares: tuple[jax.Array, jax.Array],
) -> tuple[State, Known | None]:
    """The state before the first step, and what is kept of the images.

    Args:
      noise: [B, H, W, C], unit variance.
      clean: [B, H, W, C], the images' latents.
      mask: [B, H, W, 1]; None keeps nothing.
      masked: [B, H, W, C], latents of the masked images, for a UNet that takes them.
      shares: factors of the latents and of the noise, [B] each.
    """
    clean, noise = split_images(clean), split_images(noise)
    signal, deviation = (share[:, None, None, None] for share in shares)
    state = split_state(rule.init(signal * clean + deviation * noise))
    if mask is None:
        return state, None
    mask = split_images(mask)
    shown = None if masked is None else jnp.concatenate([mask, split_images(masked)], axis=-1)
    return state, Known(clean, noise, mask, shown)


@compiled(static_argnames=("rule",))
def begin(rule: StepRule, noise: jax.Array, init_noise_sigma: jax.Array) -> State:
    """The state before the first step, from unit noise [B, H, W, C]; init_noise_sigma: [B]."""
    return split_state(rule.init(noise * init_noise_sigma[:, None, None, None]))


@compiled(static_argnames=("shape",))
def draw_noise(seeds: jax.Array, steps: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit noise [B, *shape] from fold_in(seed, step): the same alone and in a batch.

    seeds, steps: [B] uint32.
    """

    return split_images(noise_of(seeds, steps, shape))


def noise_of(seeds: jax.Array, steps: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`draw_noise` inside another program."""

    def draw(seed: jax.Array, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
        return jax.random.normal(key, shape, jnp.float32)

    # The noise of a seed does not depend on the user's settings of JAX.
    with jax.threefry_partitionable(True):
        return jax.vmap(draw)(seeds, steps)


def split_state(state: State) -> State:
    return {name: split_images(value) for name, value in state.items()}
