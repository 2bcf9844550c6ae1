"""The stages of a call after `resolve`: encode, sample, decode. Each runs compiled programs."""

import collections

import jax
import numpy as np

from instantid_jax.arrays import float_array
from instantid_jax.errors import InputError
from instantid_jax.models.instantid import Conditions
from instantid_jax.pipeline import programs, step
from instantid_jax.pipeline.conditions.person import encode_person
from instantid_jax.pipeline.conditions.start import encode_images
from instantid_jax.pipeline.conditions.text import encode_text
from instantid_jax.pipeline.model import TEXT_ENCODERS, LoadedModel
from instantid_jax.pipeline.observer import Observer, Step
from instantid_jax.pipeline.plan import Plan
from instantid_jax.pipeline.tiling import LATENT, map_tiles

# fold_in(seed, step) draws the noise of a step, and with this number that of the initial latents.
INITIAL = 2**32 - 1
IN_FLIGHT = 2


def encode(model: LoadedModel, plan: Plan) -> Conditions:
    """Encodes prompts, persons and control images."""
    guidance = plan.program.guidance
    with model.resident(*TEXT_ENCODERS), model.on_devices(model.dtype):
        positive, negative = encode_text(model, plan.text, guidance)
    with model.resident("controlnets"), model.on_devices(model.dtype):
        return programs.prepare(
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


def sample(model: LoadedModel, plan: Plan, conditions: Conditions, observer: Observer) -> jax.Array:
    """Runs the steps, two in flight: [B, H, W, C] float32 latents, scaled as the VAE's.

    Raises:
      InputError: naming the first seed and step whose latents are not finite.
    """
    start = plan.start
    clean, masked = (
        None if images is None else encode_images(model, images)
        for images in (start.images, start.masked)
    )
    with model.resident("controlnets"), model.on_devices(model.dtype):
        state, known = _begin(model, plan, clean, masked)
        in_flight: collections.deque[jax.Array] = collections.deque()
        total, done = len(plan.samplers), 0
        for i in range(total):
            state, finite = step.denoise(
                *(plan.program, model.denoiser_params, state, conditions, _step_inputs(plan, i)),
                known,
            )
            at = Step(i, total, plan.samplers.timesteps[i], state["sample"], model)
            if (replaced := observer.on_step(at)) is not None:
                state["sample"] = _replacement(replaced, state["sample"])
            in_flight.append(finite)
            while len(in_flight) > (IN_FLIGHT if i + 1 < total else 0):
                done += 1
                check_finite(in_flight.popleft(), plan.seeds, f"the latents after step {done}")
                observer.on_progress(done, total)
        return state["sample"]


def decode(model: LoadedModel, plan: Plan, latents: jax.Array, dtype: np.dtype) -> np.ndarray:
    """Images of latents, [B, 8H, 8W, 3]; dtype is uint8, or float32 for [0, 1].

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
    return images


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


def _begin(
    model: LoadedModel, plan: Plan, clean: np.ndarray | None, masked: np.ndarray | None
) -> tuple[dict[str, jax.Array], step.Known | None]:
    """The state before the first step, and what is kept of images.

    clean, masked: latents of the images, whole and masked.
    """
    start, rule = plan.start, plan.program.rule
    noise = _draw(plan, INITIAL) if start.noise is None else start.noise
    known = None
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
    samplers = plan.samplers
    return step.StepInputs(
        row=samplers.row(i),
        timesteps=np.tile(samplers.timesteps[i], plan.program.halves),
        guidance=plan.guidance.row(i),
        residual_scales=plan.control.scales[i],
        adapter_scales=plan.adapter.windows[i],
        noise=_draw(plan, i) if plan.program.rule.stochastic else None,
        kept=_kept(plan, i),
        freeu=plan.guidance.freeu,
    )


def _kept(plan: Plan, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if not plan.program.keeps:
        return None
    start = plan.start
    return start.kept.signal[i], start.kept.noise[i], start.released[i]


def _draw(plan: Plan, number: int) -> jax.Array:
    seeds = np.array(plan.seeds, np.uint32)
    return step.draw_noise(seeds, np.full(len(seeds), number, np.uint32), plan.latent_shape)


def _replacement(latents: np.ndarray, sample: jax.Array) -> jax.Array:
    """Checks latents that an observer returned, and puts them on the devices."""
    latents = float_array("replaced latents", latents)
    if latents.shape != sample.shape:
        raise InputError(
            f"replaced latents have shape {list(latents.shape)}: expected {list(sample.shape)}, "
            "channels last"
        )
    return jax.device_put(latents, sample.sharding)


def check_finite(finite: jax.Array | np.ndarray, seeds: list[int], what: str) -> None:
    """Raises an InputError if a result is not finite; waits for the results."""
    finite = np.asarray(finite)
    if not finite.all():
        seed = seeds[int(np.argmin(finite))]
        raise InputError(
            f"{what} of seed {seed} are not finite: the dtype overflowed, a strength or given "
            "latents are too large, or the weights are damaged; try dtype float32 (or vae_dtype "
            "float32), usual strengths, or check the files with `python -m convert inspect`"
        )
