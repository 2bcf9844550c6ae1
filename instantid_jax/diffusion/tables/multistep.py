"""Multistep solvers: DPM-Solver++, UniPC, DEIS and PLMS."""

import math

import numpy as np

from instantid_jax.diffusion.tables.predictions import (
    Rows,
    of_alphas_cumprod,
    of_denoised,
    of_epsilon,
    of_sigmas,
)


def dpm_solver(
    sigmas: np.ndarray,
    prediction_type: str,
    *,
    orders: list[int],
    max_order: int,
    heun: bool,
    stochastic: bool,
) -> Rows:
    """DPM-Solver++ of order 1, 2 or 3, or its SDE form of order 1 or 2: rows of `max_order`.

    Args:
      orders: [T], the order of each step, at most `max_order`.
      heun: use Heun's second-order rule instead of the midpoint rule.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix B; diffusers'
      DPMSolverMultistepScheduler, the three `..._order_update`.
    """
    rows, alpha, deviation = _of_denoised(sigmas, prediction_type)
    h = np.diff(-np.log(sigmas))  # infinite in a step to sigma 0, which is of order 1
    decay = sigmas[1:] / sigmas[:-1]  # exp(-h)
    sample = deviation[1:] / deviation[:-1]
    span = h
    if stochastic:
        rows["noise"] = deviation[1:] * np.sqrt(1 - decay**2)
        sample, decay, span = sample * decay, decay**2, 2 * h
    # The denoised sample's value, slope and curvature, integrated over the step.
    value = alpha[1:] * (1 - decay)
    slope = alpha[1:] * ((decay - 1) / span + 1)
    curvature = -alpha[1:] * ((decay - 1 + span) / span**2 - 0.5)
    rows |= {"sample": sample, "converted": value}
    rows |= {f"difference_{k}": np.zeros_like(value) for k in range(1, max_order)}
    for i, order in enumerate(orders):
        if order == 2:
            second = slope[i] if heun else 0.5 * value[i]
            rows["difference_1"][i] = -second * h[i] / h[i - 1]
        elif order == 3:
            r0, r1 = h[i - 1] / h[i], h[i - 2] / h[i]
            share, bend = r0 / (r0 + r1), curvature[i] / (r0 + r1)
            newer = (slope[i] * (1 + share) + bend) / r0  # of D - D_1
            older = -(slope[i] * share + bend) / r1  # of D_1 - D_2
            rows["difference_1"][i] = older - newer
            rows["difference_2"][i] = -older
    return rows if max_order > 1 else _one_step(rows)


def unipc(
    sigmas: np.ndarray,
    prediction_type: str,
    *,
    orders: list[int],
    max_order: int,
    bh1: bool,
    uncorrected: tuple[int, ...],
) -> Rows:
    """UniPC in B(h) form, predicting the denoised sample: rows with a corrector.

    Args:
      orders: [T], the order of each step, at most `max_order`.
      bh1: use B(h) = h instead of e^h - 1. (diffusers gives NaN in a step to sigma 0.)
      uncorrected: steps without the corrector.
    Source: Zhao et al. 2023, algorithms 5 to 8; diffusers' UniPCMultistepScheduler,
      `multistep_uni_p_bh_update` and `multistep_uni_c_bh_update`.
    """
    rows, alpha, deviation = _of_denoised(sigmas, prediction_type)
    lambdas = -np.log(sigmas)
    steps = len(orders)
    names = [f"difference_{k}" for k in range(1, max_order)]
    names += ["correct_corrected", "correct_converted"]
    names += [f"correct_difference_{k}" for k in range(1, max_order + 1)]
    rows |= {name: np.zeros(steps) for name in names}
    rows |= {"sample": deviation[1:] / deviation[:-1], "correct_sample": np.ones(steps)}
    rows["converted"] = alpha[1:] * (1 - sigmas[1:] / sigmas[:-1])
    for i, order in enumerate(orders):
        h = lambdas[i + 1] - lambdas[i]
        ratios = [(lambdas[i - k] - lambdas[i]) / h for k in range(1, order)]
        scale = -alpha[i + 1] * (-h if bh1 else np.expm1(-h))
        # Order 2 uses UniP's simplified predictor.
        weights = [0.5] if order == 2 else _unipc_weights(-h, ratios, bh1)
        for k, (ratio, weight) in enumerate(zip(ratios, weights, strict=True), start=1):
            rows[f"difference_{k}"][i] = scale * weight / ratio

        if i + 1 == steps or i in uncorrected:
            continue
        # Repeats the step from the same sample, with the output at its end: D, and D_1 at its
        # start. The equations take differences from D_1.
        weights = [0.5] if order == 1 else _unipc_weights(-h, [*ratios, 1.0], bh1)
        older = [scale * w / r for r, w in zip(ratios, weights, strict=False)]
        start = rows["converted"][i]
        rows["correct_sample"][i + 1] = 0.0
        rows["correct_corrected"][i + 1] = rows["sample"][i]
        rows["correct_converted"][i + 1] = start
        rows["correct_difference_1"][i + 1] = start - scale * weights[-1] - sum(older)
        for k, each in enumerate(older, start=2):
            rows[f"correct_difference_{k}"][i + 1] = each
    return rows


def _unipc_weights(h: float, ratios: list[float], bh1: bool) -> np.ndarray:
    """ρ of the conditions R ρ = b that make a step exact to its order (Zhao et al. 2023, eq. 5).

    Returns NaN if no such weights exist.
    """
    if not ratios:
        return np.zeros(0)
    phi = np.expm1(h) / h - 1
    conditions: list[float] = []
    for n in range(1, len(ratios) + 1):
        conditions.append(phi * math.factorial(n) / (h if bh1 else np.expm1(h)))
        phi = phi / h - 1 / math.factorial(n + 1)
    powers = np.vander(ratios, len(ratios), increasing=True).T  # row n holds ratios to the n
    try:
        return np.linalg.solve(powers, conditions)
    except np.linalg.LinAlgError:  # two equal sigmas, or a step to sigma 0 of an order above 1
        return np.full(len(ratios), np.nan)


def deis(sigmas: np.ndarray, prediction_type: str, *, orders: list[int], max_order: int) -> Rows:
    """Diffusion exponential integrators with polynomials in log σ: rows of `max_order`.

    Args:
      orders: [T], the order of each step, at most `max_order`.
    Source: Zhang & Chen 2023; diffusers' DEISMultistepScheduler, the three `..._order_update`.
    """
    alpha, deviation = of_sigmas(sigmas)
    of_sample, of_output = of_epsilon(alpha[:-1], deviation[:-1], prediction_type)
    rows = {
        "input_scale": np.ones(len(orders)),
        "convert_sample": of_sample,
        "convert_output": of_output,
        "sample": alpha[1:] / alpha[:-1],
        # The weights of all predictions add up to this, the integral of 1.
        "converted": alpha[1:] * (sigmas[1:] - sigmas[:-1]),
    }
    rows |= {f"difference_{k}": np.zeros(len(orders)) for k in range(1, max_order)}
    for i, order in enumerate(orders):
        nodes = np.log(sigmas[i - order + 1 : i + 1][::-1])
        for k in range(1, order):
            others: np.ndarray = np.delete(nodes, k)
            scale = math.prod(float(nodes[k] - other) for other in others)
            weight = _integral(sigmas[i], sigmas[i + 1], others) / scale
            rows[f"difference_{k}"][i] = alpha[i + 1] * weight
    return rows if max_order > 1 else _one_step(rows)


def _integral(start: float, end: float, roots: np.ndarray) -> float:
    """The integral of Π (log t - root) from `start` to `end`, for one root or two."""

    def antiderivative(t: float) -> float:
        log = np.log(t)
        if len(roots) == 1:
            return t * (log - 1 - roots[0])
        return t * (log**2 - 2 * log + 2 - (log - 1) * roots.sum() + roots.prod())

    return float(antiderivative(end) - antiderivative(start))


# Weights of the newest predictions of noise, by their number (Liu et al. 2022, eq. 9).
ADAMS_BASHFORTH = (
    [1],
    [3 / 2, -1 / 2],
    [23 / 12, -16 / 12, 5 / 12],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
)


def plms(alphas_cumprod: np.ndarray, following: np.ndarray, prediction_type: str) -> Rows:
    """Pseudo linear multistep method: rows of order 5 with a corrector.

    The second step repeats the first with the mean of the predictions at both ends; its own
    prediction is not used later.

    Args:
      alphas_cumprod, following: ᾱ before and after each step, [T]; those of the first step twice.
    Source: Liu et al. 2022, algorithm 2; diffusers' PNDMScheduler.step_plms and _get_prev_sample.
    """
    steps = len(alphas_cumprod)
    signal, deviation = of_alphas_cumprod(alphas_cumprod)
    span = following - alphas_cumprod
    root = np.sqrt(alphas_cumprod * (1 - alphas_cumprod) * following)
    change = span / (alphas_cumprod * np.sqrt(1 - following) + root)
    of_sample, of_output = np.zeros(steps), np.ones(steps)
    if prediction_type == "v_prediction":
        # Mixes velocities, and takes the noise of the mixture.
        of_sample, of_output = deviation, signal
    rows = {
        "input_scale": np.ones(steps),
        "convert_sample": np.zeros(steps),
        "convert_output": np.ones(steps),
        "sample": np.sqrt(following / alphas_cumprod) - change * of_sample,
        "converted": -change * of_output,
        "correct_sample": np.ones(steps),
    }
    names = ("correct_corrected", "correct_converted")
    rows |= {name: np.zeros(steps) for name in names}
    rows |= {f"difference_{k}": np.zeros(steps) for k in range(1, 5)}
    rows |= {f"correct_difference_{k}": np.zeros(steps) for k in range(1, 6)}
    for i in range(1, steps):
        if i == 1:
            rows["correct_sample"][1], rows["correct_corrected"][1] = 0.0, 1.0
            weights = {1: 1 / 2}
        else:
            # How many steps ago each prediction was made, without the second.
            ages = [age for age in range(i + 1) if i - age != 1]
            chosen = ADAMS_BASHFORTH[min(len(ages), 4) - 1]
            weights = dict(zip(ages, chosen, strict=False))
        for age, weight in weights.items():
            if age:
                rows[f"difference_{age}"][i] = rows["converted"][i] * weight
    return rows


def _of_denoised(sigmas: np.ndarray, prediction_type: str) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The common part of the multistep solvers: rows of D = p x + q f; α and s, [T + 1]."""
    alpha, deviation = of_sigmas(sigmas)
    of_sample, of_output = of_denoised(alpha[:-1], deviation[:-1], prediction_type)
    rows = {
        "input_scale": np.ones(len(sigmas) - 1),
        "convert_sample": of_sample,
        "convert_output": of_output,
    }
    return rows, alpha, deviation


def _one_step(rows: Rows) -> Rows:
    """Turns rows of D = p x + q f without history into rows of f."""
    rows = dict(rows)
    of_sample, of_output = rows.pop("convert_sample"), rows.pop("convert_output")
    rows["sample"] = rows["sample"] + rows["converted"] * of_sample
    rows["converted"] = rows["converted"] * of_output
    return rows
