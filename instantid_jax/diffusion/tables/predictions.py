"""Coefficients of sample and output in what the output predicts.

A network predicts the noise (`epsilon`), the velocity (`v_prediction`), or the denoised sample
(`sample`). The sample is x = α x_0 + s ε.
"""

import numpy as np

Rows = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]


def of_denoised(alpha: np.ndarray, deviation: np.ndarray, prediction_type: str) -> Pair:
    """The coefficients of x and f in x_0, given α and s."""
    if prediction_type == "epsilon":
        return 1 / alpha, -deviation / alpha
    if prediction_type == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return alpha, -deviation


def of_epsilon(alpha: np.ndarray, deviation: np.ndarray, prediction_type: str) -> Pair:
    """The coefficients of x and f in ε, given α and s."""
    if prediction_type == "epsilon":
        return np.zeros_like(alpha), np.ones_like(alpha)
    if prediction_type == "sample":
        return 1 / deviation, -alpha / deviation
    return deviation, alpha


def of_velocity(alpha: np.ndarray, deviation: np.ndarray, prediction_type: str) -> Pair:
    """The coefficients of x and f in the velocity α ε - s x_0, given α and s."""
    if prediction_type == "epsilon":
        return -deviation / alpha, 1 / alpha
    if prediction_type == "sample":
        return alpha / deviation, -1 / deviation
    return np.zeros_like(alpha), np.ones_like(alpha)


def of_sigmas(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α and s of noise-to-signal ratios."""
    alpha = 1 / np.sqrt(sigmas**2 + 1)
    return alpha, sigmas * alpha


def of_alphas_cumprod(alphas_cumprod: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α and s of ᾱ."""
    return np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)
