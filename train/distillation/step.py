"""The loss of a distillation: the student's step against several of the teacher's.

Source: Salimans & Ho 2022 (progressive distillation), sections 3 and 4, with all halvings in one
and guidance in the teacher, as in Meng et al. 2023.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.diffusion.guidance import classifier_free_guidance
from instantid_jax.diffusion.schedule import add_noise, clean_estimate
from instantid_jax.models import instantid
from instantid_jax.models.blocks import Remat, keep
from instantid_jax.models.instantid import Texts
from instantid_jax.params import Params
from instantid_jax.runs.trained_lora import merged
from train.networks import Networks
from train.objective import (
    Conditions,
    Draws,
    ObjectiveConfig,
    encode_batch,
    encode_prompts,
    weighted_by_face,
)
from train.step import Constants, Losses, LossOf, StepConfig, remat_wrapper

# Predicts from noisy latents [B, H, W, C] float32 and timesteps [B].
Predict = Callable[[jax.Array, jax.Array], jax.Array]


class Lesson(NamedTuple):
    """The student's inputs, and what it learns to predict.

    Attributes:
      noisy: [B, H, W, C] float32; timesteps: [B].
      clean: [B, H, W, C] float32, the clean latents to predict.
      conditions: those of the positive half.
    """

    noisy: jax.Array
    timesteps: jax.Array
    clean: jax.Array
    conditions: Conditions


def distillation_loss(
    networks: Networks,
    objective: ObjectiveConfig,
    step: StepConfig,
    constants: Constants,
    batch: dict[str, jax.Array],
    draws: Draws,
    whole: Callable[[Params], Params] = lambda params: params,
) -> LossOf:
    """As `micro_batch_loss`, of the LoRA's factors."""
    frozen, alphas = constants.frozen, constants.alphas_cumprod
    given = teach(networks, objective, constants, batch, draws)
    remat = remat_wrapper(step.remat)
    velocity = objective.prediction_type == "v_prediction"
    ratio = alphas[given.timesteps] / (1 - alphas[given.timesteps])
    # "Truncated SNR" in the paper: clean latents say little of what much noise needs.
    weight = jnp.maximum(ratio, 1)[:, None, None, None]

    def loss_of(params: Params) -> tuple[jax.Array, Losses]:
        weights = merged(networks.unet, frozen["unet"], whole(params))
        predict = _denoiser(networks, weights, frozen, given.conditions, remat)
        prediction = predict(given.noisy, given.timesteps)
        clean = clean_estimate(alphas, given.noisy, prediction, given.timesteps, velocity=velocity)
        error = weight * jnp.square(clean - given.clean)
        if objective.face_weight:
            box = batch["face_box"] / networks.vae.config.downscale
            error = weighted_by_face(error, objective.face_weight, box)
        loss = error.mean(axis=(1, 2, 3))
        return loss.mean(), {"loss": loss}

    return loss_of


def teach(
    networks: Networks,
    objective: ObjectiveConfig,
    constants: Constants,
    batch: dict[str, jax.Array],
    draws: Draws,
) -> Lesson:
    """Has the teacher take one of the student's steps for each example.

    It is the step within whose share of the timesteps the drawn one lies. The arguments are those
    of `micro_batch_loss`.
    """
    config, frozen = networks.student.config, constants.frozen
    alphas, velocity = constants.alphas_cumprod, objective.prediction_type == "v_prediction"
    latents, positive = encode_batch(networks, frozen, batch, draws, constants.empty_prompt)
    table = trailing_timesteps(config.steps * config.teacher_steps, len(alphas))
    # Counted in the teacher's steps.
    start = step_of(draws.timesteps, config.steps, len(alphas)) * config.teacher_steps
    noisy = add_noise(alphas, latents, draws.noise, table[start])
    predict = _teacher(networks, frozen, positive, constants.empty_prompt)

    def follow(sample: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        at, to = table[start + number], table[start + number + 1]
        prediction = predict(sample, at)
        clean = clean_estimate(alphas, sample, prediction, at, velocity=velocity)
        return _move(alphas, sample, clean, at, to), None

    moved, _ = jax.lax.scan(follow, noisy, jnp.arange(config.teacher_steps))
    end = table[start + config.teacher_steps]
    clean = _clean_of_move(alphas, noisy, moved, table[start], end)
    return Lesson(noisy, table[start], clean, positive)


def step_of(timesteps: jax.Array, steps: int, trained: int) -> jax.Array:
    """The numbers, from 0, of the sampling steps within whose shares timesteps [B] lie."""
    return steps - 1 - timesteps * steps // trained


def trailing_timesteps(steps: int, trained: int) -> jax.Array:
    """The timesteps of `steps` steps, and `trained` for the end, which is clean: [steps + 1].

    Source: Lin et al. 2023, table 2.
    """
    timesteps = np.round(np.arange(steps, 0, -1) * (trained / steps)) - 1
    return jnp.asarray(np.append(timesteps, trained), jnp.int32)


def _teacher(
    networks: Networks,
    frozen: dict[str, Params],
    positive: Conditions,
    empty_prompt: tuple[jax.Array, jax.Array],
) -> Predict:
    """The teacher; with guidance, both halves in one batch, nobody's ID in the negative one."""
    student, weights = networks.student, frozen["unet"]
    if "lora" in frozen:
        weights = merged(networks.unet, weights, frozen["lora"])
    if student.guidance_scale <= 1:
        return _denoiser(networks, weights, frozen, positive)
    rows = len(positive.text)
    text, pooled = encode_prompts(networks, frozen, [ids[None] for ids in empty_prompt])
    if student.zero_negative:
        text, pooled = jnp.zeros_like(text), jnp.zeros_like(pooled)
    negative = positive._replace(
        text=jnp.broadcast_to(text, positive.text.shape),
        pooled=jnp.broadcast_to(pooled, positive.pooled.shape),
        id_embeds=jnp.zeros_like(positive.id_embeds),
    )
    both = jax.tree.map(lambda *halves: jnp.concatenate(halves), negative, positive)
    predict = _denoiser(networks, weights, frozen, both)
    scale = jnp.full(rows, student.guidance_scale, jnp.float32)

    def predict_guided(noisy: jax.Array, timesteps: jax.Array) -> jax.Array:
        output = predict(jnp.concatenate([noisy] * 2), jnp.concatenate([timesteps] * 2))
        return classifier_free_guidance(output, scale)

    return predict_guided


def _denoiser(
    networks: Networks,
    weights: Params,
    frozen: dict[str, Params],
    conditions: Conditions,
    remat: Remat = keep,
) -> Predict:
    """InstantID with these weights of the UNet, under conditions that no step changes."""
    config = networks.student.config
    unet = networks.unet.bind(weights | frozen["ip_adapter"])
    controlnet = networks.controlnet.bind(frozen["controlnet"])
    dtype = controlnet.conv_in.kernel.dtype
    rows = len(conditions.text)
    given = instantid.condition(
        unet,
        [controlnet],
        Texts(conditions.text.astype(dtype), conditions.pooled),
        conditions.time_ids,
        networks.image_proj.bind(frozen["image_proj"])(conditions.id_embeds.astype(dtype)),
        jnp.full(rows, config.ip_adapter_scale, dtype),
        [controlnet.embed_image(conditions.image)],
    )
    shape = (1, networks.controlnet.config.residuals, rows)
    scales = jnp.full(shape, config.controlnet_conditioning_scale, jnp.float32)

    def predict(noisy: jax.Array, timesteps: jax.Array) -> jax.Array:
        output = instantid.predict(
            *(unet, [controlnet], noisy.astype(dtype), timesteps.astype(jnp.float32), given),
            *(scales, remat),
        )
        return output.astype(jnp.float32)

    return predict


def _signals(alphas_cumprod: jax.Array, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sqrt(ᾱ) and sqrt(1 - ᾱ), [B, 1, 1, 1]; those of clean latents after the last timestep."""
    alphas = jnp.append(alphas_cumprod, 1.0)[timesteps][:, None, None, None]
    return jnp.sqrt(alphas), jnp.sqrt(1 - alphas)


def _move(
    alphas_cumprod: jax.Array, noisy: jax.Array, clean: jax.Array, at: jax.Array, to: jax.Array
) -> jax.Array:
    """A step of DDIM, which is Euler's method: the same noise with less of it."""
    (signal, deviation), (signal_to, deviation_to) = (
        _signals(alphas_cumprod, each) for each in (at, to)
    )
    return signal_to * clean + deviation_to / deviation * (noisy - signal * clean)


def _clean_of_move(
    alphas_cumprod: jax.Array, noisy: jax.Array, moved: jax.Array, at: jax.Array, to: jax.Array
) -> jax.Array:
    """The clean latents with which one step goes where `moved` is; the inverse of `_move`."""
    (signal, deviation), (signal_to, deviation_to) = (
        _signals(alphas_cumprod, each) for each in (at, to)
    )
    kept = deviation_to / deviation
    return (moved - kept * noisy) / (signal_to - kept * signal)
