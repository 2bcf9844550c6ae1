"""The step rule: the compiled part of every sampler.

All samplers here are linear in the current sample, the network's output, their history and noise.
So there is one rule, a sum of arrays times coefficients. Everything that depends on the step (first
or last step, order, noise level) is in the coefficients, one row per image. Images at different
steps, of different samplers and step counts, share one compiled step.
"""

# jax.numpy's stubs leave the argument `device` untyped.
# pyright: reportUnknownMemberType=false

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

State = dict[str, jax.Array]
# Coefficients by name, [B] float32 with one value per image, or [1] for all.
Row = Mapping[str, jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class StepRule:
    """One denoising step as a linear combination.

    With x the sample, f the network's output, D = p x + q f the converted output of this step
    (for multistep solvers, the denoised sample), D_k that of k steps before, δ_k = D_k - D and z
    noise, a step is

        y = a x + b y_1 + c D + Σ_k c_k δ_k         only if `corrects`; else y = x
        x' = a' y + c' D + Σ_k c'_k δ_k + d z

    where y_1 is the y of the previous step. A rule without history has D = f.

    Rules compare by value: samplers with equal rules share a compiled step. A rule of higher order
    also serves samplers of lower order (`covering`).

    Attributes:
      order: order of the extrapolation, which uses `order` - 1 earlier converted outputs.
      corrects: whether the output at the predicted sample first corrects that sample (UniPC),
        which uses one more earlier output.
      stochastic: whether a step adds noise.
    """

    order: int = 1
    corrects: bool = False
    stochastic: bool = False

    @classmethod
    def covering(cls, rules: Iterable[Self]) -> Self:
        """The smallest rule that serves all of `rules`."""
        rules = list(rules)
        return cls(
            order=max(rule.order for rule in rules),
            corrects=any(rule.corrects for rule in rules),
            stochastic=any(rule.stochastic for rule in rules),
        )

    @property
    def history(self) -> int:
        """Number of earlier converted outputs in the state."""
        return self.order - 1 + self.corrects

    @property
    def remembered(self) -> tuple[str, ...]:
        """Names of the state's arrays other than `sample`."""
        past = tuple(f"converted_{k}" for k in range(1, self.history + 1))
        return (*past, "corrected") if self.corrects else past

    @property
    def neutral(self) -> dict[str, float]:
        """Coefficients that leave the sample unchanged."""
        values = {"input_scale": 1.0, "sample": 1.0, "converted": 0.0}
        values |= {f"difference_{k}": 0.0 for k in range(1, self.order)}
        if self.history:
            values |= {"convert_sample": 0.0, "convert_output": 1.0}
        if self.corrects:
            values |= {"correct_sample": 1.0, "correct_corrected": 0.0, "correct_converted": 0.0}
            values |= {f"correct_difference_{k}": 0.0 for k in range(1, self.history + 1)}
        if self.stochastic:
            values |= {"noise": 0.0}
        return values

    def init(self, sample: jax.Array) -> State:
        """The state before the first step.

        Args:
          sample: [B, H, W, C], unit noise times the sampler's `init_noise_sigma`.
        """
        sample = sample.astype(jnp.float32)
        return {"sample": sample} | {name: jnp.zeros_like(sample) for name in self.remembered}

    def scale_input(self, state: State, row: Row) -> jax.Array:
        """The networks' input: the sample scaled to unit variance."""
        return state["sample"] * per_image(row["input_scale"], state["sample"])

    def step(self, state: State, output: jax.Array, row: Row, noise: jax.Array | None) -> State:
        """One denoising step, in the state's dtype.

        Args:
          output: guided prediction with the sample's shape and any float dtype.
          row: this step's coefficients, by the names of `neutral`.
          noise: unit noise with the sample's shape; None unless `stochastic`.
        """
        x = state["sample"]

        def times(name: str, array: jax.Array) -> jax.Array:
            return array * per_image(row[name], array)

        converted = output.astype(x.dtype)
        if self.history:
            converted = times("convert_sample", x) + times("convert_output", converted)
        past = [state[f"converted_{k}"] for k in range(1, self.history + 1)]
        differences = [each - converted for each in past]
        following = {
            f"converted_{k}": value
            for k, value in enumerate([converted, *past][: self.history], start=1)
        }
        if self.corrects:
            x = times("correct_sample", x) + times("correct_corrected", state["corrected"])
            x = x + times("correct_converted", converted)
            for k, difference in enumerate(differences, start=1):
                x = x + times(f"correct_difference_{k}", difference)
            following["corrected"] = x
        x = times("sample", x) + times("converted", converted)
        for k, difference in enumerate(differences[: self.order - 1], start=1):
            x = x + times(f"difference_{k}", difference)
        if self.stochastic:
            assert noise is not None, "a stochastic rule takes noise"
            x = x + times("noise", noise.astype(x.dtype))
        return {"sample": x} | following


def per_image(values: jax.Array | np.ndarray, images: jax.Array) -> jax.Array | np.ndarray:
    """Reshapes and casts [B] or [1] values to multiply [B, ...] images."""
    return values.reshape(values.shape + (1,) * (images.ndim - 1)).astype(images.dtype)
