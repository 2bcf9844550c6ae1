"""The coefficients of each step, on the host in float64: the scheduler's half of a step rule.

Every function returns `{name: [T]}`, by the names of `rules.StepRule`. One-step samplers apply
their coefficients to the network's output itself. Sigmas are [T + 1] and descend. diffusers takes
differences of logarithms in float32; the closed forms here are exact: with λ = -log σ and h = λ' -
λ, exp(-h) is σ'/σ. Notation: α = 1/sqrt(σ²+1), s = σα, unprimed before the step and primed after
it; f is the network's output. A step to sigma 0 divides by zero in intermediate results (NumPy
warns); an infinite coefficient means that the step does not exist.
"""

import math

import numpy as np

Rows = dict[str, np.ndarray]


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
    """x' = x + (x - x_0)/σ (target - σ), where x_0 = x - σ f or (x - s f)/(σ²+1)."""
    alpha = 1 / np.sqrt(sigma**2 + 1)
    if prediction_type == "epsilon":
        sample, model_output = np.ones_like(sigma), target - sigma
    else:
        sample, model_output = (1 + sigma * target) * alpha**2, (target - sigma) * alpha
    return {"input_scale": alpha, "sample": sample, "converted": model_output}


def ddim(alpha: np.ndarray, alpha_next: np.ndarray, prediction_type: str, eta: float) -> Rows:
    """Denoising diffusion implicit models: rows of order 1, with noise if `eta` is above 0.

    Args:
      alpha, alpha_next: ᾱ before and after each step, [T].
    Source: Song et al. 2021, eq. 12 and 16; diffusers' DDIMScheduler.step.
    """
    denoised, epsilon = _denoised(alpha, prediction_type), _epsilon(alpha, prediction_type)
    deviation = eta * np.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
    direction = np.sqrt(1 - alpha_next - deviation**2)
    rows = {"input_scale": np.ones_like(alpha)}
    for name, of_denoised, of_epsilon in zip(
        ("sample", "converted"), denoised, epsilon, strict=True
    ):
        rows[name] = np.sqrt(alpha_next) * of_denoised + direction * of_epsilon
    return rows | ({"noise": deviation} if eta > 0 else {})


def lcm(
    timesteps: np.ndarray, alpha: np.ndarray, prediction_type: str, timestep_scaling: float
) -> Rows:
    """Latent consistency sampling: denoises fully, then adds noise: rows of order 1.

    Args:
      timesteps: [T].
      alpha: [T], ᾱ at each timestep.
    Source: Luo et al. 2023, algorithm 1 and eq. 9; diffusers' LCMScheduler.step.
    """
    sigma_data = 0.5
    scaled = timesteps * timestep_scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / np.sqrt(scaled**2 + sigma_data**2)
    alpha_next = np.append(alpha[1:], 1.0)  # the last step ends at the denoised sample
    of_sample, of_output = _denoised(alpha, prediction_type)
    return {
        "input_scale": np.ones_like(alpha),
        "sample": np.sqrt(alpha_next) * (c_out * of_sample + c_skip),
        "converted": np.sqrt(alpha_next) * c_out * of_output,
        "noise": np.sqrt(1 - alpha_next),
    }


def _denoised(alpha: np.ndarray, prediction_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the sample and the output in the denoised sample, given ᾱ."""
    if prediction_type == "epsilon":
        return 1 / np.sqrt(alpha), -np.sqrt((1 - alpha) / alpha)
    return np.sqrt(alpha), -np.sqrt(1 - alpha)


def _epsilon(alpha: np.ndarray, prediction_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the sample and the output in the predicted noise, given ᾱ."""
    if prediction_type == "epsilon":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return np.sqrt(1 - alpha), np.sqrt(alpha)


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


def _of_denoised(sigmas: np.ndarray, prediction_type: str) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The common part of the multistep solvers: rows of D = p x + q f; α and s, [T + 1]."""
    alpha = 1 / np.sqrt(sigmas**2 + 1)
    rows = {"input_scale": np.ones(len(sigmas) - 1)}
    if prediction_type == "epsilon":
        rows |= {"convert_sample": 1 / alpha[:-1], "convert_output": -sigmas[:-1]}
    else:
        rows |= {"convert_sample": alpha[:-1], "convert_output": -(sigmas * alpha)[:-1]}
    return rows, alpha, sigmas * alpha


def _one_step(rows: Rows) -> Rows:
    """Turns rows of D = p x + q f without history into rows of f."""
    rows = dict(rows)
    of_sample, of_output = rows.pop("convert_sample"), rows.pop("convert_output")
    rows["sample"] = rows["sample"] + rows["converted"] * of_sample
    rows["converted"] = rows["converted"] * of_output
    return rows
