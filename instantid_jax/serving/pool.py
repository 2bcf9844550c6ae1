"""The pool: pictures at different steps on the device, and the compiled programs that move them.

A picture has a place for its state and one for each of its rows of conditions. A step takes any
batch of them, so requests join and leave between steps and compile nothing. One step rule serves
every sampler, and a mask that keeps nothing serves pictures without one: what remains to decide a
program is in `Kind`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.compilation import compiled
from instantid_jax.diffusion.guidance import guide
from instantid_jax.diffusion.rules import State, StepRule
from instantid_jax.models.instantid import Array, Conditions
from instantid_jax.params import Network
from instantid_jax.pipeline import step
from instantid_jax.pipeline.step import DenoiserParams, Known, StepInputs, StepProgram

# Serves all samplers; orders and corrections that one does not have are coefficients of zero.
EVERY_SAMPLER = StepRule(order=5, corrects=True, stochastic=True)


class Pool(NamedTuple):
    """Pictures in flight, in N places.

    Attributes:
      state: of `EVERY_SAMPLER`, each [N, H, W, C].
      known: images and masks that are kept, [N, ...].
      conditions: one row of the networks in each place, [N, ...].
    """

    state: State
    known: Known
    conditions: Conditions


class Places(NamedTuple, Generic[Array]):
    """The places of a pool that a step takes: P pictures in R rows of the networks, int32.

    Attributes:
      pictures: [P], where their states are. The last may repeat the first, to fill the batch.
      written: [P], where their states go; outside the pool for those that fill it.
      rows: [R], where the conditions are.
      seen: [R], which of the P pictures each row sees.
      negative, positive: [P], the rows of each picture; the same one without guidance.
      seeds: [P] uint32.
      steps: [P] uint32, numbers of the pictures' steps, for their noise.
    """

    pictures: Array
    written: Array
    rows: Array
    seen: Array
    negative: Array
    positive: Array
    seeds: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class Kind:
    """All that decides which step is compiled, apart from the batch's size.

    Attributes:
      latent_shape: (H, W, C) of a picture's latents.
      tokens: length of the prompts.
      perturbed: as in `StepProgram`.
      freeu: whether FreeU's factors are inputs.
    """

    latent_shape: tuple[int, int, int]
    tokens: int
    perturbed: tuple[str, ...] = ()
    freeu: bool = False

    def program(self, unet: Network, controlnets: tuple[Network, ...]) -> StepProgram:
        """The static argument of `advance`."""
        return StepProgram(
            *(unet, controlnets, EVERY_SAMPLER),
            guidance=True,
            keeps=True,
            perturbed=self.perturbed,
        )


class Arrival(NamedTuple):
    """A picture before its first step.

    Attributes:
      sample: [1, H, W, C].
      known: what is kept of an image, [1, ...]; None without one.
      conditions: [1, ...], or with guidance [2, ...], the negative row first.
    """

    sample: jax.Array
    known: Known | None
    conditions: Conditions


@compiled(static_argnames=("places",))
def empty_pool(places: int, arrival: Arrival) -> Pool:
    """A pool for pictures of the shapes of this one."""

    def zeros(array: jax.Array) -> jax.Array:
        return jnp.zeros((places, *array.shape[1:]), array.dtype)

    state = EVERY_SAMPLER.init(zeros(arrival.sample))
    known = _known(arrival.sample, arrival.known)
    return Pool(state, jax.tree.map(zeros, known), jax.tree.map(zeros, arrival.conditions))


@compiled(donate_argnames=("pool",))
def insert(pool: Pool, arrival: Arrival, place: jax.Array, rows: jax.Array) -> Pool:
    """Puts a picture into a place, and its conditions into one or two."""
    state = EVERY_SAMPLER.init(arrival.sample)
    known = _known(arrival.sample, arrival.known)

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(array, value[0], place, axis=0)

    return Pool(
        jax.tree.map(put, pool.state, state),
        jax.tree.map(put, pool.known, known),
        jax.tree.map(lambda array, value: array.at[rows].set(value), *(pool[2], arrival[2])),
    )


def _known(sample: jax.Array, known: Known | None) -> Known:
    """The images that are kept; without one, a mask of ones keeps nothing."""
    if known is not None:
        return known
    nothing = jnp.zeros_like(sample)
    return Known(nothing, nothing, jnp.ones_like(sample[..., :1]))


@compiled(static_argnames=("program",), donate_argnames=("pool",))
def advance(
    program: StepProgram,
    params: DenoiserParams,
    pool: Pool,
    places: Places[jax.Array],
    inputs: StepInputs[jax.Array],
) -> tuple[Pool, jax.Array]:
    """One denoising step of some pictures; see `step.denoise`.

    Args:
      inputs: without noise, which the seeds draw here.
    Returns:
      The pool, and whether each of the P pictures is finite.
    """
    state, known = jax.tree.map(lambda x: x[places.pictures], (pool.state, pool.known))
    conditions = jax.tree.map(lambda x: x[places.rows], pool.conditions)
    sample = program.rule.scale_input(state, inputs.row)
    seen = step.see(sample, known.shown)[places.seen]
    images, rows = len(sample), len(seen)
    output = step.predict(program, params, seen, conditions, inputs, images)
    halves = [output[places.negative], output[places.positive], output[rows:]]
    output = guide(
        *(jnp.concatenate(halves), sample, inputs.guidance),
        negative=True,
        perturbed=bool(program.perturbed),
    )
    noise = step.noise_of(places.seeds, places.steps, sample.shape[1:])
    state = program.rule.step(state, output, inputs.row, noise)
    assert inputs.kept is not None
    state["sample"] = step.keep(state["sample"], known, *inputs.kept)
    written = {
        name: pool.state[name].at[places.written].set(value, mode="drop")
        for name, value in state.items()
    }
    return pool._replace(state=written), jnp.isfinite(state["sample"]).all(axis=(1, 2, 3))


@compiled()
def take(pool: Pool, place: jax.Array) -> jax.Array:
    """The sample of a picture: [1, H, W, C]."""
    return jax.lax.dynamic_slice_in_dim(pool.state["sample"], place, 1)


def indices(values: int | Sequence[int]) -> np.ndarray:
    """Indices as programs take them."""
    return np.array(values, np.int32)
