"""The stages of a call after `resolve`: encode, sample, decode. Each runs compiled programs."""

from typing import NamedTuple

import jax
import numpy as np

from instantid_jax.diffusion.rules import State, StepRule
from instantid_jax.models.instantid import Conditions
from instantid_jax.pipeline import programs, step
from instantid_jax.pipeline.conditions.person import encode_person
from instantid_jax.pipeline.conditions.start import encode_images
from instantid_jax.pipeline.conditions.text import States, encode_text, without_zeros
from instantid_jax.pipeline.loop import Part, check_finite, draw, run_steps
from instantid_jax.pipeline.model import TEXT_ENCODERS, LoadedModel
from instantid_jax.pipeline.observer import Observer
from instantid_jax.pipeline.plan import Plan
from instantid_jax.pipeline.refining import refine
from instantid_jax.pipeline.tiling import LATENT, map_tiles

# fold_in(seed, step) draws the noise of a step, and with this number that of the initial latents.
INITIAL = 2**32 - 1


class Encoded(NamedTuple):
    """Inputs of the denoising steps that are constant.

    Attributes:
      conditions: the base networks'.
      texts: positive and negative prompts for the refiner; None if it takes no step.
    """

    conditions: Conditions
    texts: tuple[States, States | None] | None


def encode(model: LoadedModel, plan: Plan) -> Encoded:
    """Encodes prompts, persons and control images."""
    guidance = plan.program.guidance
    with model.resident(*TEXT_ENCODERS), model.on_devices(model.dtype):
        positive, negative = encode_text(model, plan.text, guidance)
        texts = None
        if plan.refiner is not None:
            texts = positive, without_zeros(model, plan.text, negative)
    with model.resident("controlnets"), model.on_devices(model.dtype):
        conditions = programs.prepare(
            model.networks,
            plan.repeats,
            model.denoiser_params,
            positive,
            negative,
            plan.time_ids,
            encode_person(model, plan.person),
            plan.adapter.scales,
            (plan.person.keypoints, *plan.control.images),
            plan.control.masks,
        )
    return Encoded(conditions, texts)


def sample(model: LoadedModel, plan: Plan, encoded: Encoded, observer: Observer) -> jax.Array:
    """Runs the steps: [B, H, W, C] float32 latents, scaled as the VAE's.

    Raises:
      InputError: naming the first seed and step whose latents are not finite.
    """
    latents, known = _sample_base(model, plan, encoded.conditions, observer)
    if encoded.texts is None:
        return latents
    model.release("controlnets")
    return refine(model, plan, encoded.texts, known, latents, observer)


def _sample_base(
    model: LoadedModel, plan: Plan, conditions: Conditions, observer: Observer
) -> tuple[jax.Array, step.Known | None]:
    """Runs the base networks' steps; returns the latents, and what is kept of images."""
    state, known = begin(model, plan, plan.program.rule)
    steps = len(plan.samplers)
    with model.resident("controlnets"), model.on_devices(model.dtype):
        part = Part(
            *(plan.program, model.denoiser_params, conditions, known),
            timesteps=plan.samplers.timesteps,
            inputs=lambda i: _step_inputs(plan, i),
            before=0,
            total=steps + (0 if plan.refiner is None else len(plan.refiner.samplers)),
        )
        return run_steps(model, part, state, plan.seeds, observer)["sample"], known


def decode(model: LoadedModel, plan: Plan, latents: jax.Array, dtype: np.dtype) -> list[np.ndarray]:
    """The image of each latent, [8H, 8W, 3], in the whole that it is a view of.

    Args:
      dtype: uint8, or float32 for [0, 1].
    Raises:
      InputError: naming the first seed whose pixels are not finite.
    """
    at_once, vae = model.images_at_once, model.networks.vae
    with model.resident("vae"), model.on_devices(model.vae_dtype):
        params, tile = model.params["vae"], model.vae_tile(plan.size)
        if tile is None:
            parts = [
                jax.device_get(programs.decode(vae, at_once, dtype, params, latents, np.int32(i)))
                for i in range(len(latents) // at_once)
            ]
        else:
            host = np.asarray(latents)
            host = host.reshape(at_once, -1, *host.shape[1:])
            parts = [_decode_tiles(model, host[:, i], tile, dtype) for i in range(host.shape[1])]
    # [at_once, parts, ...]: each part of the mesh decoded consecutive images.
    images, finite = (np.concatenate(np.stack(each, 1)) for each in zip(*parts, strict=True))
    check_finite(finite, plan.seeds, "the decoded pixels")
    views = [view for view in plan.views for _ in range(plan.repeats)]
    return [
        pixels if view is None else view.paste(pixels)
        for view, pixels in zip(views, images, strict=True)
    ]


def _decode_tiles(
    model: LoadedModel, latents: np.ndarray, tile: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """`programs.decode` of latents [B, H, W, C], in tiles of as many pixels."""

    def run(part: np.ndarray) -> np.ndarray:
        return jax.device_get(programs.decode_tile(model.networks.vae, model.params["vae"], part))

    images = map_tiles(run, latents, tile // LATENT, (1, LATENT))
    finite = np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))
    images = np.clip(images / 2 + 0.5, 0, 1)
    if dtype == np.uint8:
        # Those that are not finite end the call.
        images = np.rint(np.nan_to_num(images) * 255)
    return images.astype(dtype), finite


def begin(model: LoadedModel, plan: Plan, rule: StepRule) -> tuple[State, step.Known | None]:
    """The state of a rule before the first step, and what is kept of images."""
    start = plan.start
    clean, masked = (
        None if images is None else encode_images(model, images)
        for images in (start.images, start.masked)
    )
    known = None
    with model.on_devices(model.dtype):
        noise = draw(plan, INITIAL) if start.noise is None else start.noise
        if clean is None:
            state = step.begin(rule, noise, plan.samplers.init_noise_sigma)
        else:
            arrays = (
                None if each is None else np.repeat(each, plan.repeats, axis=0)
                for each in (clean, start.masks, masked)
            )
            state, known = step.begin_with_images(rule, noise, *arrays, tuple(start.first))
    # The weights are bound to their devices, and so is what a step returns: for a first state that
    # is not, jit would compile the step twice. On a sampling mesh it is bound already.
    if all(len(value.sharding.device_set) == 1 for value in state.values()):
        state, known = model.place((state, known))
    return state, known


def _step_inputs(plan: Plan, i: int) -> step.StepInputs[np.ndarray]:
    samplers, freeu = plan.samplers, plan.guidance.freeu
    return step.StepInputs(
        row=samplers.row(i),
        timesteps=np.tile(samplers.timesteps[i], plan.program.halves),
        guidance=plan.guidance.row(i),
        residual_scales=plan.control.scales[i],
        adapter_scales=plan.adapter.windows[i],
        noise=draw(plan, i) if plan.program.rule.stochastic else None,
        kept=plan.start.kept.row(i) if plan.program.keeps else None,
        freeu=None if freeu is None else np.tile(freeu, plan.program.halves),
    )
