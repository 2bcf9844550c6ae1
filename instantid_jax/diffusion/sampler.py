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
      init_noise_sigma: scale of the initial noise, where sampling begins with noise alone; 1 where
        it begins with latents of another run.
      levels: the sample's clean and noisy shares, before each step and at the end.
      rows: each [T] float64, the coefficients of `rule` at each step.
      rule: the compiled part; does not depend on the number of steps.
      begins: where each step begins among these T evaluations of the network; None is everywhere.
      left_out: how many evaluations would follow to the end, for another network.
    """

    timesteps: np.ndarray
    init_noise_sigma: float
    levels: Levels
    rows: dict[str, np.ndarray]
    rule: StepRule
    begins: np.ndarray | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def _places(self) -> np.ndarray:
        """The evaluation that each step begins with, and the end."""
        if self.begins is None:
            return np.arange(len(self) + 1)
        return np.append(self.begins, len(self))

    def steps_from(self, timestep: float) -> int:
        """How many steps begin at this timestep or above."""
        return int((self.timesteps[self._places[:-1]] >= timestep).sum())

    def until(self, step: int) -> Self:
        """The steps before this one."""
        return self._between(0, step)

    def after_all(self) -> Self:
        """No step, at the end."""
        last = len(self._places) - 1
        return self._between(last, last)

    def _between(self, first: int, last: int) -> Self:
        places = self._places
        start, end = places[first], places[last]
        return dataclasses.replace(
            self,
            timesteps=self.timesteps[start:end],
            levels=Levels(*(column[start : end + 1] for column in self.levels)),
            rows={name: column[start:end] for name, column in self.rows.items()},
            begins=places[first:last] - start,
            left_out=len(self) - int(end),
        )

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
        levels = Levels(*np.empty((2, steps + 1, len(samplers)), np.float32))
        for i, sampler in enumerate(samplers):
            timesteps[: len(sampler), i] = sampler.timesteps
            for column, own in zip(levels, sampler.levels, strict=True):
                # Images that are finished stay at their last level.
                column[:, i] = np.pad(own, (0, len(column) - len(own)), mode="edge")
            for name, column in sampler.rows.items():
                rows[name][: len(sampler), i] = column
        sigmas = np.array([sampler.init_noise_sigma for sampler in samplers], np.float32)
        return cls(timesteps, sigmas, levels, rows, rule)

    def __len__(self) -> int:
        return len(self.timesteps)

    def row(self, i: int) -> dict[str, np.ndarray]:
        """The coefficients of step `i`, each [B] float32."""
        return {name: column[i] for name, column in self.rows.items()}
