"""One-step samplers: Euler, ancestral Euler, DDIM, DDPM, LCM and TCD."""

import numpy as np

from instantid_jax.diffusion.tables.predictions import (
    Rows,
    of_alphas_cumprod,
    of_denoised,
    of_epsilon,
    of_sigmas,
)


def euler(sigmas: np.ndarray, prediction_type: str) -> Rows:
    """Euler's method on the probability-flow ODE: rows of order 1.

    Source: Karras et al. 2022, algorithm 1 without churn; diffusers' EulerDiscreteScheduler.step.
    """
    return _euler_to(sigmas[:-1], sigmas[1:], prediction_type)


def euler_ancestral(sigmas: np.ndarray, prediction_type: str) -> Rows:
    """Euler's method to below the next sigma, then noise to reach it: rows of order 1.

    Source: k-diffusion's sample_euler_ancestral; diffusers' EulerAncestralDiscreteScheduler.step.
    """
    sigma, target = sigmas[:-1], sigmas[1:]
    rows = _euler_to(sigma, target**2 / sigma, prediction_type)
    return rows | {"noise": target * np.sqrt(sigma**2 - target**2) / sigma}


def _euler_to(sigma: np.ndarray, target: np.ndarray, prediction_type: str) -> Rows:
    """x' = x + (x - x_0)/σ (target - σ), where the network's input is α x."""
    alpha, deviation = of_sigmas(sigma)
    of_sample, of_output = of_denoised(alpha, deviation, prediction_type)
    ratio = target / sigma
    return {
        "input_scale": alpha,
        "sample": ratio + (1 - ratio) * alpha * of_sample,
        "converted": (1 - ratio) * of_output,
    }


def ddim(
    alphas_cumprod: np.ndarray, following: np.ndarray, prediction_type: str, eta: float
) -> Rows:
    """Denoising diffusion implicit models: rows of order 1, with noise if `eta` is above 0.

    Args:
      alphas_cumprod, following: ᾱ before and after each step, [T].
    Source: Song et al. 2021, eq. 12 and 16; diffusers' DDIMScheduler.step.
    """
    kept = alphas_cumprod / following
    noise = eta * np.sqrt((1 - following) / (1 - alphas_cumprod) * (1 - kept))
    rows = _renoised(alphas_cumprod, following, np.sqrt(1 - following - noise**2), prediction_type)
    return rows | ({"noise": noise} if eta > 0 else {})


def _renoised(
    alphas_cumprod: np.ndarray, target: np.ndarray, deviation: np.ndarray, prediction_type: str
) -> Rows:
    """x' = sqrt(ᾱ_target) x_0 + deviation ε."""
    signal = of_alphas_cumprod(alphas_cumprod)
    denoised, epsilon = of_denoised(*signal, prediction_type), of_epsilon(*signal, prediction_type)
    rows = {"input_scale": np.ones_like(alphas_cumprod)}
    for name, of_x0, of_noise in zip(("sample", "converted"), denoised, epsilon, strict=True):
        rows[name] = np.sqrt(target) * of_x0 + deviation * of_noise
    return rows


def ddpm(
    timesteps: np.ndarray,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
    *,
    large_variance: bool,
) -> Rows:
    """The ancestral sampler of denoising diffusion: rows of order 1 with noise.

    Args:
      timesteps: [T].
      alphas_cumprod: [T], ᾱ at each timestep.
      large_variance: add noise of variance β instead of the posterior's.
    Source: Ho et al. 2020, eq. 7; diffusers' DDPMScheduler.step.
    """
    following = np.append(alphas_cumprod[1:], 1.0)
    kept = alphas_cumprod / following
    before, after = 1 - alphas_cumprod, 1 - following
    of_x0 = np.sqrt(following) * (1 - kept) / before
    of_sample, of_output = of_denoised(*of_alphas_cumprod(alphas_cumprod), prediction_type)
    variance = (1 - kept) * (1 if large_variance else after / before)
    return {
        "input_scale": np.ones_like(alphas_cumprod),
        "sample": np.sqrt(kept) * after / before + of_x0 * of_sample,
        "converted": of_x0 * of_output,
        "noise": np.where(timesteps > 0, np.sqrt(variance), 0.0),
    }


def lcm(
    timesteps: np.ndarray,
    alphas_cumprod: np.ndarray,
    prediction_type: str,
    timestep_scaling: float,
) -> Rows:
    """Latent consistency sampling: denoises fully, then adds noise: rows of order 1.

    Args:
      timesteps: [T].
      alphas_cumprod: [T], ᾱ at each timestep.
    Source: Luo et al. 2023, algorithm 1 and eq. 9; diffusers' LCMScheduler.step.
    """
    sigma_data = 0.5
    scaled = timesteps * timestep_scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / np.sqrt(scaled**2 + sigma_data**2)
    following = np.append(alphas_cumprod[1:], 1.0)  # the last step ends at the denoised sample
    of_sample, of_output = of_denoised(*of_alphas_cumprod(alphas_cumprod), prediction_type)
    return {
        "input_scale": np.ones_like(alphas_cumprod),
        "sample": np.sqrt(following) * (c_out * of_sample + c_skip),
        "converted": np.sqrt(following) * c_out * of_output,
        "noise": np.sqrt(1 - following),
    }


def tcd(
    alphas_cumprod: np.ndarray,
    between: np.ndarray,
    following: np.ndarray,
    prediction_type: str,
    *,
    stochastic: bool,
) -> Rows:
    """Trajectory consistency sampling: to below the next timestep, then noise to reach it.

    Args:
      alphas_cumprod, between, following: ᾱ before each step, where it lands, and after the noise,
        [T].
    Source: Zheng et al. 2024, algorithm 4; diffusers' TCDScheduler.step.
    """
    rows = _renoised(alphas_cumprod, between, np.sqrt(1 - between), prediction_type)
    if not stochastic:
        return rows
    kept = following / between
    kept[-1] = 1.0  # the last step adds no noise
    for name in ("sample", "converted"):
        rows[name] = np.sqrt(kept) * rows[name]
    return rows | {"noise": np.sqrt(1 - kept)}
