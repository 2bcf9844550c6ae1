"""Step rules: the compiled part of a sampler.

A rule is a few multiply-adds. All a scheduler decides from the step's place (first step, last step,
which order, which noise level) is in the row of coefficients that it is given, so one compiled step
serves every step of every step count. Rules are frozen dataclasses that compare by value: equal
rules share a compiled program, whichever sampler they came from.

A state is a dict of float32 arrays, each of the sample's shape: `sample`, and what the rule has to
remember. Arithmetic is in the state's dtype.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp

State = dict[str, jax.Array]
Row = dict[str, jax.Array]  # float32 scalars, one of a kind for each step


@dataclasses.dataclass(frozen=True)
class StepRule(abc.ABC):
    """What rules have in common; a rule adds `step` and what it remembers."""

    def memory(self) -> tuple[str, ...]:
        """Names of the arrays kept beside `sample`."""
        return ()

    def init(self, sample: jax.Array) -> State:
        """The state before the first step.

        Args:
          sample: [B, H, W, C], unit noise times the sampler's `init_noise_sigma`.
        """
        sample = sample.astype(jnp.float32)
        return {"sample": sample} | {name: jnp.zeros_like(sample) for name in self.memory()}

    def scale_input(self, state: State, row: Row) -> jax.Array:
        """What the networks are shown: the sample at unit variance."""
        return state["sample"] * row["input_scale"]

    @abc.abstractmethod
    def step(
        self, state: State, model_output: jax.Array, row: Row, noise: jax.Array | None = None
    ) -> State:
        """One denoising step.

        Args:
          model_output: guided prediction, of the sample's shape, any float dtype.
          row: this step's coefficients.
          noise: of the sample's shape, unit variance; for stochastic samplers, and only for them.
        Raises:
          ValueError: if noise is missing or not wanted.
        """


def _add_noise(sample: jax.Array, row: Row, noise: jax.Array | None) -> jax.Array:
    if ("noise" in row) != (noise is not None):
        raise ValueError(
            "this sampler draws noise at every step: pass it"
            if noise is None
            else "this sampler draws no noise: pass none"
        )
    return sample if noise is None else sample + row["noise"] * noise.astype(sample.dtype)


@dataclasses.dataclass(frozen=True)
class OneStep(StepRule):
    """Looks at nothing but the present: x' = a x + b f + c z, with f the network's output."""

    def step(
        self, state: State, model_output: jax.Array, row: Row, noise: jax.Array | None = None
    ) -> State:
        x = state["sample"]
        x = row["sample"] * x + row["model_output"] * model_output.astype(x.dtype)
        return {"sample": _add_noise(x, row, noise)}


@dataclasses.dataclass(frozen=True)
class Multistep(StepRule):
    """Extrapolates the denoised sample from its last `order` values (Adams-Bashforth).

    D_0 = p x + q f is the denoised sample of this step, D_k of k steps before:
    x' = a x + b D_0 + c_1 (D_0 - D_1) + c_2 (D_1 - D_2) + d z.
    """

    order: int = 2

    def memory(self) -> tuple[str, ...]:
        return tuple(f"denoised_{k}" for k in range(1, self.order))

    def step(
        self, state: State, model_output: jax.Array, row: Row, noise: jax.Array | None = None
    ) -> State:
        x = state["sample"]
        denoised = (_denoised(x, model_output, row), *(state[name] for name in self.memory()))
        x = row["sample"] * x + row["denoised"] * denoised[0]
        for k in range(1, self.order):
            x = x + row[f"difference_{k}"] * (denoised[k - 1] - denoised[k])
        memory = dict(zip(self.memory(), denoised[:-1], strict=True))
        return {"sample": _add_noise(x, row, noise)} | memory


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(StepRule):
    """UniPC: the network's output at the predicted sample first corrects that sample.

    With D_0 = p x + q f, D_k of k steps before and y the corrected sample of the step before:
    x_c = a x + b y + c D_1 + e (D_0 - D_1) + sum over k > 1 of c_k (D_k - D_1), then
    x' = a' x_c + b' D_0 + sum over k of c'_k (D_k - D_0).
    """

    order: int = 2

    def memory(self) -> tuple[str, ...]:
        return ("corrected", *(f"denoised_{k}" for k in range(1, self.order + 1)))

    def step(
        self, state: State, model_output: jax.Array, row: Row, noise: jax.Array | None = None
    ) -> State:
        x = state["sample"]
        history = tuple(state[f"denoised_{k}"] for k in range(1, self.order + 1))
        denoised = (_denoised(x, model_output, row), *history)

        corrected = row["correct_sample"] * x + row["correct_corrected"] * state["corrected"]
        corrected = corrected + row["correct_denoised"] * denoised[1]
        corrected = corrected + row["correct_difference_0"] * (denoised[0] - denoised[1])
        for k in range(2, self.order + 1):
            corrected = corrected + row[f"correct_difference_{k}"] * (denoised[k] - denoised[1])

        x = row["sample"] * corrected + row["denoised"] * denoised[0]
        for k in range(1, self.order):
            x = x + row[f"difference_{k}"] * (denoised[k] - denoised[0])
        memory = dict(zip(self.memory(), (corrected, *denoised[:-1]), strict=True))
        return {"sample": _add_noise(x, row, noise)} | memory


def _denoised(x: jax.Array, model_output: jax.Array, row: Row) -> jax.Array:
    return row["denoised_sample"] * x + row["denoised_output"] * model_output.astype(x.dtype)
