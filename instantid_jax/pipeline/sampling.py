"""Runs the compiled programs: the loop over the steps, and the decoding behind it."""

import collections
import functools
from collections.abc import Sequence

import jax
import numpy as np
from tqdm import tqdm

from instantid_jax.diffusion.samplers import Sampler
from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.pipeline import programs
from instantid_jax.placement import beside

# fold_in(seed, step) draws the noise of a step; this, which is no step, the initial latents.
INITIAL = 2**32 - 1
IN_FLIGHT = 2


def denoise(
    networks: programs.Networks,
    params: dict[str, Params | tuple[Params, ...]],
    sampler: Sampler,
    conditions: programs.Conditions,
    scales: np.ndarray,
    guidance_scale: float | None,
    seeds: Sequence[int],
    latents: np.ndarray | tuple[int, int, int],
    bar: tqdm,
) -> jax.Array:
    """Runs the steps, two in flight: [B, H, W, 4] float32, scaled as the VAE's.

    Args:
      params: of the UNet and the ControlNets.
      scales: [T, ControlNets, residuals, R], see `residual_scales`.
      guidance_scale: None without guidance.
      latents: unit noise [B, H, W, 4], or the shape (H, W, 4) of what the seeds draw.
      bar: moved by one when a step is ready; says "compiling" until the first is under way.
    Raises:
      InputError: naming the first seed and step whose latents are not finite.
    """
    key = np.array(seeds, np.uint32)
    if isinstance(latents, tuple):
        latents = programs.draw_noise(key, np.uint32(INITIAL), latents)
    state = programs.begin(sampler.rule, latents, np.float32(sampler.init_noise_sigma))
    # The weights are bound to their devices, and so is what a step returns: for a first state that
    # is not, jit would compile the step twice. On a sampling mesh it is bound already.
    if all(len(value.sharding.device_set) == 1 for value in state.values()):
        state = jax.device_put(state, beside(params["unet"]))
    step = functools.partial(
        programs.denoise, networks, sampler.rule, guidance_scale is not None, params
    )
    guidance = np.float32(1 if guidance_scale is None else guidance_scale)
    in_flight: collections.deque[jax.Array] = collections.deque()
    ready = 0
    for i in range(len(sampler)):
        noise = None
        if sampler.rule.stochastic:
            noise = programs.draw_noise(key, np.uint32(i), latents.shape[1:])
        row, timestep = sampler.row(i), sampler.timesteps[i]
        state, finite = step(state, conditions, row, timestep, guidance, scales[i], noise)
        if i == 0:
            # Compiled; the time of that is no step's.
            bar.unpause()
            bar.set_description("sampling")
        in_flight.append(finite)
        while len(in_flight) > (IN_FLIGHT if i + 1 < len(sampler) else 0):
            ready += 1
            check_finite(in_flight.popleft(), seeds, f"the latents after step {ready}")
            bar.update()
    return state["sample"]


def decode(
    networks: programs.Networks,
    params: Params,
    latents: jax.Array,
    seeds: Sequence[int],
    dtype: np.dtype,
    at_once: int,
) -> np.ndarray:
    """Pictures of latents, [B, 8H, 8W, 3].

    Args:
      params: of the VAE.
      dtype, at_once: as of `programs.decode`.
    Raises:
      InputError: naming the first seed whose pixels are not finite.
    """
    calls = len(latents) // at_once
    some = functools.partial(programs.decode, networks.vae, at_once, dtype, params, latents)
    made = [jax.device_get(some(np.int32(i))) for i in range(calls)]
    # [at_once, calls, ...]: each part of the mesh made pictures that follow each other.
    pictures, finite = (np.concatenate(np.stack(each, 1)) for each in zip(*made, strict=True))
    check_finite(finite, seeds, "the decoded pixels")
    return pictures


def check_finite(finite: jax.Array | np.ndarray, seeds: Sequence[int], what: str) -> None:
    """Refuses results of which one is not finite; waits for them."""
    finite = np.asarray(finite)
    if not finite.all():
        seed = seeds[int(np.argmin(finite))]
        raise InputError(
            f"{what} of seed {seed} are not finite: the dtype overflowed or the weights are "
            "damaged; try dtype float32 (or vae_dtype float32), or check the files with "
            "`python -m convert inspect`"
        )
