"""A sampler: its timesteps, coefficients and rule; alone, or one for each image of a batch."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from instantid_jax.diffusion.rules import StepRule


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler for a number of steps.

    Attributes:
      timesteps: [T] float32, the networks' timestep at each step.
      init_noise_sigma: scale of the initial noise.
      rows: each [T] float64, the coefficients of `rule` at each step.
      rule: the compiled part; does not depend on the number of steps.
    """

    timesteps: np.ndarray
    init_noise_sigma: float
    rows: dict[str, np.ndarray]
    rule: StepRule

    def __len__(self) -> int:
        return len(self.timesteps)

    def row(self, i: int) -> dict[str, np.ndarray]:
        """The coefficients of step `i`, the same for all images: each [1] float32."""
        return {name: column[i : i + 1].astype(np.float32) for name, column in self.rows.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class SamplerBatch:
    """One sampler per image of a batch.

    An image that has finished its steps stays unchanged while others continue.

    Attributes:
      timesteps: [T, B] float32, T the largest number of steps.
      init_noise_sigma: [B] float32.
      rows: each [T, B] float32, the coefficients of `rule`.
      rule: a rule that serves all samplers.
    """

    timesteps: np.ndarray
    init_noise_sigma: np.ndarray
    rows: dict[str, np.ndarray]
    rule: StepRule

    @classmethod
    def of(cls, samplers: Sequence[Sampler]) -> Self:
        """Batches one sampler per image."""
        rule = StepRule.covering(sampler.rule for sampler in samplers)
        steps = max(len(sampler) for sampler in samplers)
        rows = {
            name: np.full((steps, len(samplers)), value, np.float32)
            for name, value in rule.neutral.items()
        }
        timesteps = np.zeros((steps, len(samplers)), np.float32)
        for i, sampler in enumerate(samplers):
            timesteps[: len(sampler), i] = sampler.timesteps
            for name, column in sampler.rows.items():
                rows[name][: len(sampler), i] = column
        sigmas = np.array([sampler.init_noise_sigma for sampler in samplers], np.float32)
        return cls(timesteps, sigmas, rows, rule)

    def __len__(self) -> int:
        return len(self.timesteps)

    def row(self, i: int) -> dict[str, np.ndarray]:
        """The coefficients of step `i`, each [B] float32."""
        return {name: column[i] for name, column in self.rows.items()}
