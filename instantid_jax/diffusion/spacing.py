"""The noise levels of a sampler: timesteps and sigmas, on the host.

A sigma is the noise-to-signal ratio sqrt((1 - ᾱ) / ᾱ) (Karras et al. 2022). Together, these
functions are diffusers' `set_timesteps`.
"""

import dataclasses

import numpy as np

from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a sampler.

    Attributes:
      count: how many.
      timesteps: the timestep of each, descending; None spaces them by the configuration.
      sigmas: the sigma of each, descending, and the last step's target; None finds them.
      start: how many are left out at the beginning, as an image does that stands for them. The
        others are as without it.
    """

    count: int
    timesteps: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    start: int = 0


def train_sigmas(config: ScheduleConfig, alphas_cumprod: np.ndarray) -> np.ndarray:
    """The sigma of each training timestep, ascending: [num_train_timesteps] float32.

    At zero terminal SNR the last would be infinite; diffusers uses ᾱ = 2^-24, sigma 4096.
    """
    alpha = alphas_cumprod.copy()
    if config.rescale_betas_zero_snr:
        alpha[-1] = 2.0**-24
    return np.sqrt((1 - alpha) / alpha)


def spaced_timesteps(
    config: ScheduleConfig, steps: Steps, *, skip_last: bool = False, last: int | None = None
) -> np.ndarray:
    """Timesteps spread over the training range, descending, or those given: [T] float64.

    Args:
      skip_last: places one more point and drops the lowest, like the multistep solvers.
      last: number of training timesteps in range; None means all.
    Raises:
      InputError: if the steps do not fit the spacing.
    Source: Lin et al. 2023, table 2.
    """
    if steps.timesteps is not None:
        return np.array(steps.timesteps, np.float64)
    train_steps, count = config.num_train_timesteps, steps.count
    last = train_steps if last is None else last
    points = count + 1 if skip_last else count
    if last < 1:
        raise InputError(
            f"lambda_min_clipped={config.lambda_min_clipped} leaves no training timestep: "
            "correct scheduler_config.json"
        )
    if config.timestep_spacing == "linspace":
        timesteps = np.linspace(0, last - 1, points)[::-1][:count]
    elif config.timestep_spacing == "leading":
        timesteps = np.arange(points)[::-1][:count] * (last // points) + float(config.steps_offset)
    else:  # trailing
        # For 61 and about sixty other counts, rounding makes `arange` one too long, and diffusers
        # takes an extra step at timestep -1; the slice drops it.
        timesteps = np.arange(last, 0, -train_steps / count).round()[:count] - 1
    if np.any(np.diff(timesteps) >= 0):
        raise InputError(
            f"num_inference_steps={count} does not fit {last} training timesteps with "
            f"timestep_spacing={config.timestep_spacing!r}: use fewer steps"
        )
    return timesteps


def respaced_sigmas(
    config: ScheduleConfig, steps: int, sigmas: np.ndarray, *, use_lu_lambdas: bool
) -> np.ndarray | None:
    """Sigmas spread between the ends of `sigmas` by Karras' or Lu's rule, or None without one.

    Args:
      sigmas: descending; for Karras, `sigma_min` and `sigma_max` of the config replace its ends.
      use_lu_lambdas: whether the scheduler reads the setting of that name.
    Returns:
      [steps] float64, descending.
    Raises:
      InputError: if `sigma_min` and `sigma_max` do not form a range.
    Source: Karras et al. 2022, eq. 5; Lu et al. 2022 (uniform in log-SNR).
    """
    ramp = np.linspace(0, 1, steps)
    low, high = float(sigmas[-1]), float(sigmas[0])
    if use_lu_lambdas and config.use_lu_lambdas and not config.use_karras_sigmas:
        low, high = float(np.log(sigmas[-1])), float(np.log(sigmas[0]))
        return np.exp(high + ramp * (low - high))
    if not config.use_karras_sigmas:
        return None
    low = low if config.sigma_min is None else config.sigma_min
    high = high if config.sigma_max is None else config.sigma_max
    if not 0 < low <= high:
        raise InputError(
            f"sigma_min={low} and sigma_max={high}: expected 0 < sigma_min <= sigma_max; correct "
            "scheduler_config.json"
        )
    rho = 7.0
    low, high = low ** (1 / rho), high ** (1 / rho)
    return (high + ramp * (low - high)) ** rho


def timesteps_of(sigmas: np.ndarray, train_sigmas: np.ndarray) -> np.ndarray:
    """The fractional training timesteps of these sigmas, interpolated linearly in log sigma.

    Args:
      sigmas: [T] float64.
      train_sigmas: [num_train_timesteps] float32, ascending.
    Source: diffusers' EulerDiscreteScheduler._sigma_to_t.
    """
    table = np.log(train_sigmas)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    # The last entry at or below each wanted value.
    below = np.clip(np.searchsorted(table, wanted, side="right") - 1, 0, len(table) - 2)
    share = np.clip((table[below] - wanted) / (table[below] - table[below + 1]), 0, 1)
    return (1 - share) * below + share * (below + 1)
