"""Samplers that evaluate the network twice a step: Heun's method and DPM-Solver++'s SDE.

A step is two rows: the first goes to a second point, where the network is evaluated again; the
second starts over from where the first began, which is its `corrected` sample.
"""

import numpy as np

from instantid_jax.diffusion.tables.predictions import Rows, of_denoised, of_sigmas


def heun(sigmas: np.ndarray, prediction_type: str) -> Rows:
    """Heun's method: rows of 2 T - 1 steps, with a corrector.

    Every step but the last has two halves: Euler's method, then the same step again from where it
    began, with the mean of the slopes at both ends.

    Source: Karras et al. 2022, algorithm 1 without churn; diffusers' HeunDiscreteScheduler.step.
    """
    sigma, target = sigmas[:-1], sigmas[1:]
    rows = _halves(sigma, target[:-1], prediction_type)
    first, second = _places(len(sigma))
    rows["sample"][first], rows["converted"][first] = target / sigma, 1 - target / sigma
    half = (target - sigma)[:-1] / 2
    before, after = half / sigma[:-1], half / target[:-1]
    rows["correct_sample"][second] = after
    rows["correct_corrected"][second] = 1 + before
    rows["correct_converted"][second] = -before - after
    rows["correct_difference_1"][second] = -before
    return rows


def dpm_solver_sde(sigmas: np.ndarray, midpoints: np.ndarray, prediction_type: str) -> Rows:
    """DPM-Solver++ (2S) for the SDE, the midpoint rule: rows of 2 T - 1 steps, with noise.

    The noise of both halves is one Brownian motion in σ. With independent unit noise z and z', the
    first half takes z, and the second ρ z + sqrt(1 - ρ²) z', where ρ² is the first half's share of
    the step. z follows from the sample that it made.

    Args:
      midpoints: [T - 1], sigmas of the second evaluations.
    Source: Lu et al. 2022, algorithm 1; k-diffusion's sample_dpmpp_sde; diffusers'
      DPMSolverSDEScheduler.step.
    """
    sigma, target = sigmas[:-1], sigmas[1:]
    rows = _halves(sigma, midpoints, prediction_type)
    first, second = _places(len(sigma))
    # The last step has no second half, and ends at the denoised sample.
    to_middle = _ancestral(sigma[:-1], midpoints)
    whole = _ancestral(sigma[:-1], target[:-1])
    rows["noise"] = np.zeros_like(rows["sample"])
    rows["sample"][first] = np.append(to_middle[0], 0.0)
    rows["converted"][first] = 1 - rows["sample"][first]
    rows["noise"][first] = np.append(to_middle[1], 0.0)

    (kept, noise), (kept_first, noise_first) = whole, to_middle
    share = (sigma[:-1] - midpoints) / (sigma[:-1] - target[:-1])
    again = noise * np.sqrt(share) / noise_first
    rows["correct_sample"][second] = again
    rows["correct_corrected"][second] = kept - again * kept_first
    of_first = -again * (1 - kept_first)
    rows["correct_converted"][second] = rows["correct_difference_1"][second] = of_first
    rows["sample"][second], rows["converted"][second] = 1.0, 1 - kept
    rows["noise"][second] = noise * np.sqrt(1 - share)
    return rows


def _ancestral(sigma: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the sample that is kept, and the noise, of steps to `target`."""
    up = np.minimum(target, target * np.sqrt(sigma**2 - target**2) / sigma)
    return np.sqrt(target**2 - up**2) / sigma, up


def _places(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first and second halves among the rows."""
    return 2 * np.arange(steps), 2 * np.arange(steps - 1) + 1


def _halves(sigma: np.ndarray, between: np.ndarray, prediction_type: str) -> Rows:
    """Rows that convert the output; all others leave the sample as it is.

    Args:
      sigma: [T], of the first halves.
      between: [T - 1], of the second.
    """
    steps = len(sigma)
    first, second = _places(steps)
    at = np.zeros(2 * steps - 1)
    at[first], at[second] = sigma, between
    alpha, deviation = of_sigmas(at)
    of_sample, of_output = of_denoised(alpha, deviation, prediction_type)
    rows = {
        "input_scale": alpha,
        "convert_sample": alpha * of_sample,
        "convert_output": of_output,
        "sample": np.ones_like(at),
        "converted": np.zeros_like(at),
        "correct_sample": np.ones_like(at),
    }
    names = ("correct_corrected", "correct_converted", "correct_difference_1")
    return rows | {name: np.zeros_like(at) for name in names}
