"""A sampler: its timesteps, coefficients and rule; alone, or one for each image of a batch."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from instantid_jax.diffusion.rules import StepRule


class Levels(NamedTuple):
    """The noise levels of a sampler: at each a sample is `signal` x_0 + `noise` ε.

    Attributes:
      signal, noise: [T + 1] before each step and after the last, or [T + 1, B] of a batch.
    """

    signal: np.ndarray
    noise: np.ndarray

    @classmethod
    def of_sigmas(cls, sigmas: np.ndarray) -> Self:
        """Levels of samples with unit signal, which networks see scaled; clean at the end."""
        return cls(np.ones(len(sigmas) + 1), np.append(sigmas, 0.0))

    @classmethod
    def of_alphas_cumprod(cls, alphas: np.ndarray) -> Self:
        """Levels of samples with unit variance; clean at the end."""
        alphas = np.append(alphas, 1.0)
        return cls(np.sqrt(alphas), np.sqrt(1 - alphas))


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler for a number of steps.

    Attributes:
      timesteps: [T] float32, the networks' timestep at each step.
      init_noise_sigma: scale of the initial noise, where sampling begins with noise alone.
      levels: the sample's clean and noisy shares, before each step and at the end.
      rows: each [T] float64, the coefficients of `rule` at each step.
      rule: the compiled part; does not depend on the number of steps.
    """

    timesteps: np.ndarray
    init_noise_sigma: float
    levels: Levels
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
      levels: float32.
      rows: each [T, B] float32, the coefficients of `rule`.
      rule: a rule that serves all samplers.
    """

    timesteps: np.ndarray
    init_noise_sigma: np.ndarray
    levels: Levels
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
        # Images that are finished stay clean.
        levels = Levels(
            np.ones((steps + 1, len(samplers)), np.float32),
            np.zeros((steps + 1, len(samplers)), np.float32),
        )
        for i, sampler in enumerate(samplers):
            timesteps[: len(sampler), i] = sampler.timesteps
            for column, own in zip(levels, sampler.levels, strict=True):
                column[: len(own), i] = own
            for name, column in sampler.rows.items():
                rows[name][: len(sampler), i] = column
        sigmas = np.array([sampler.init_noise_sigma for sampler in samplers], np.float32)
        return cls(timesteps, sigmas, levels, rows, rule)

    def __len__(self) -> int:
        return len(self.timesteps)

    def row(self, i: int) -> dict[str, np.ndarray]:
        """The coefficients of step `i`, each [B] float32."""
        return {name: column[i] for name, column in self.rows.items()}
