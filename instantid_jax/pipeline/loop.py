"""The loop over denoising steps, of the base networks and of the refiner."""

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from instantid_jax.arrays import float_array
from instantid_jax.diffusion.rules import State
from instantid_jax.errors import InputError
from instantid_jax.models.instantid import Conditions
from instantid_jax.pipeline import step
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.observer import Observer, Step
from instantid_jax.pipeline.plan import Plan

IN_FLIGHT = 2


class Part(NamedTuple):
    """The steps of one UNet.

    Attributes:
      program, params, conditions, known: as `step.denoise` takes them.
      timesteps: [T, B] float32.
      inputs: of step `i` of T.
      before: how many steps of the call come before; `total`: of all parts.
    """

    program: step.StepProgram
    params: step.DenoiserParams
    conditions: Conditions
    known: step.Known | None
    timesteps: np.ndarray
    inputs: Callable[[int], step.StepInputs[np.ndarray]]
    before: int
    total: int


def run_steps(
    model: LoadedModel, part: Part, state: State, seeds: list[int], observer: Observer
) -> State:
    """Runs the steps, two in flight.

    Args:
      state: donated.
    Raises:
      InputError: naming the first seed and step whose latents are not finite.
    """
    in_flight: collections.deque[jax.Array] = collections.deque()
    steps, done = len(part.timesteps), part.before
    for i in range(steps):
        state, finite = step.denoise(
            *(part.program, part.params, state, part.conditions, part.inputs(i)), part.known
        )
        at = Step(part.before + i, part.total, part.timesteps[i], state["sample"], model)
        if (replaced := observer.on_step(at)) is not None:
            state["sample"] = _replacement(replaced, state["sample"])
        in_flight.append(finite)
        while len(in_flight) > (IN_FLIGHT if i + 1 < steps else 0):
            done += 1
            check_finite(in_flight.popleft(), seeds, f"the latents after step {done}")
            observer.on_progress(done, part.total)
    return state


def draw(plan: Plan, numbers: np.ndarray | int) -> jax.Array:
    """Unit noise of steps, a number for all images or for each."""
    seeds = np.array(plan.seeds, np.uint32)
    each = np.broadcast_to(np.asarray(numbers, np.uint32), seeds.shape)
    return step.draw_noise(seeds, np.array(each), plan.latent_shape)


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
