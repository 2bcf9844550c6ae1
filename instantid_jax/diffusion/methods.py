"""One function for each kind of sampler: which timesteps it takes, and with which coefficients."""

import numpy as np

from instantid_jax.diffusion.names import DEIS, DPM, DPM_SDE, EULER, EULER_ANCESTRAL, HEUN, UNIPC
from instantid_jax.diffusion.rules import StepRule
from instantid_jax.diffusion.sampler import Levels, Sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.diffusion.spacing import (
    Steps,
    respaced_sigmas,
    spaced_timesteps,
    timesteps_of,
    train_sigmas,
)
from instantid_jax.diffusion.tables import multistep, one_step, two_stage
from instantid_jax.diffusion.tables.predictions import Rows
from instantid_jax.errors import InputError


def euler(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Euler's method, and its ancestral form."""
    sigmas, timesteps = _euler_sigmas(config, class_name, steps, alpha)
    make = one_step.euler if class_name == EULER else one_step.euler_ancestral
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=_initial_sigma(config, sigmas),
        levels=Levels.of_sigmas(sigmas[:-1]),
        rows=make(sigmas, config.prediction_type),
        rule=StepRule(stochastic=class_name == EULER_ANCESTRAL),
    )


def heun(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Heun's method, with two evaluations of the network in every step but the last."""
    sigmas, timesteps = _euler_sigmas(config, class_name, steps, alpha)
    return Sampler(
        timesteps=np.repeat(timesteps.astype(np.float32), 2)[1:],
        init_noise_sigma=_initial_sigma(config, sigmas),
        levels=Levels.of_sigmas(np.repeat(sigmas[:-1], 2)[1:]),
        rows=two_stage.heun(sigmas, config.prediction_type),
        rule=StepRule(corrects=True),
        begins=2 * np.arange(len(timesteps)),
    )


def dpm_solver_sde(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """DPM-Solver++ for the SDE, with two evaluations of the network in every step but the last."""
    sigmas, timesteps = _euler_sigmas(config, class_name, steps, alpha)
    # Halfway in log σ.
    midpoints = np.sqrt(sigmas[:-2] * sigmas[1:-1])
    both, levels = np.zeros((2, 2 * len(timesteps) - 1))
    both[::2], both[1::2] = timesteps, timesteps_of(midpoints, train_sigmas(config, alpha))
    levels[::2], levels[1::2] = sigmas[:-1], midpoints
    return Sampler(
        timesteps=both.astype(np.float32),
        init_noise_sigma=_initial_sigma(config, sigmas),
        levels=Levels.of_sigmas(levels),
        rows=two_stage.dpm_solver_sde(sigmas, midpoints, config.prediction_type),
        rule=StepRule(corrects=True, stochastic=True),
        begins=2 * np.arange(len(timesteps)),
    )


def _euler_sigmas(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sigmas [T + 1] and timesteps [T], float64."""
    trained = train_sigmas(config, alpha)
    if steps.sigmas is not None:
        *sigmas, final = steps.sigmas[steps.start :]
        sigmas = _with_final(np.array(sigmas), final)
        return sigmas, timesteps_of(sigmas[:-1], trained)
    timesteps = spaced_timesteps(config, steps).astype(np.float32)
    sigmas, final = np.interp(timesteps, np.arange(len(trained)), trained), 0.0
    if class_name in (EULER, HEUN, DPM_SDE):
        respaced = respaced_sigmas(config, steps.count, sigmas, use_lu_lambdas=False)
        if respaced is not None:
            sigmas, timesteps = respaced, timesteps_of(respaced, trained)
    if class_name == EULER and config.final_sigmas_type == "sigma_min":
        final = trained[0]
    return _with_final(sigmas, final)[steps.start :], timesteps[steps.start :]


def _initial_sigma(config: ScheduleConfig, sigmas: np.ndarray) -> float:
    highest = sigmas.max()
    return float(np.sqrt(highest**2 + 1) if config.timestep_spacing == "leading" else highest)


def ddim(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Denoising diffusion implicit models."""
    timesteps = _whole_timesteps(config, steps)[steps.start :]
    # A constant stride, even if the spacing's is not constant.
    following = timesteps - config.num_train_timesteps // steps.count
    alpha = alpha.astype(np.float64)
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(alpha[timesteps]),
        rows=one_step.ddim(
            alpha[timesteps], _alpha_at(config, alpha, following), config.prediction_type, eta
        ),
        rule=StepRule(stochastic=eta > 0),
    )


def ddpm(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """The ancestral sampler of denoising diffusion."""
    timesteps = _whole_timesteps(config, steps)[steps.start :]
    alpha = alpha.astype(np.float64)[timesteps]
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(alpha),
        rows=one_step.ddpm(
            timesteps,
            alpha,
            config.prediction_type,
            large_variance=config.variance_type == "fixed_large",
        ),
        rule=StepRule(stochastic=True),
    )


def pndm(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Pseudo linear multistep method, without Runge-Kutta steps; takes the second step twice."""
    timesteps = _whole_timesteps(config, steps)[steps.start :]
    stride = config.num_train_timesteps // steps.count
    starts, ends = timesteps, timesteps - stride
    begins = np.arange(len(timesteps))
    if len(timesteps) > 1:
        again = timesteps[1] + stride
        starts, ends = np.insert(starts, 1, again), np.insert(ends, 1, timesteps[1])
        timesteps = np.insert(timesteps, 1, timesteps[1])
        begins[1:] += 1
    alpha = alpha.astype(np.float64)
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(alpha[timesteps]),
        rows=multistep.plms(alpha[starts], _alpha_at(config, alpha, ends), config.prediction_type),
        rule=StepRule(order=5, corrects=True),
        begins=begins,
    )


def _whole_timesteps(config: ScheduleConfig, steps: Steps) -> np.ndarray:
    timesteps = spaced_timesteps(config, steps).round().astype(np.int64)
    if timesteps[0] >= config.num_train_timesteps or timesteps[-1] < 0:
        raise InputError(
            f"num_inference_steps={steps.count} with steps_offset={config.steps_offset} gives "
            f"timesteps {timesteps[0]} to {timesteps[-1]} of {config.num_train_timesteps}: use "
            "fewer steps"
        )
    return timesteps


def _alpha_at(config: ScheduleConfig, alpha: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """ᾱ at timesteps; below the first it is 1 or the first's, by the configuration."""
    final = 1.0 if config.set_alpha_to_one else alpha[0]
    return np.where(timesteps >= 0, alpha[timesteps], final)


def lcm(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Latent consistency sampling."""
    timesteps = _distilled_timesteps(config, "lcm", steps)
    alpha = alpha.astype(np.float64)[timesteps]
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(alpha),
        rows=one_step.lcm(timesteps, alpha, config.prediction_type, config.timestep_scaling),
        rule=StepRule(stochastic=True),
    )


def tcd(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """Trajectory consistency sampling; eta is γ in the paper."""
    timesteps = _distilled_timesteps(config, "tcd", steps)
    # The last step ends at the first timestep, not at the denoised sample.
    following = np.append(timesteps[1:], 0)
    # Rounded as in torch, which multiplies whole numbers in float32.
    between = np.floor(np.float32(1 - eta) * following.astype(np.float32)).astype(np.int64)
    alpha = alpha.astype(np.float64)
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(alpha[timesteps]),
        rows=one_step.tcd(
            alpha[timesteps],
            alpha[between],
            alpha[following],
            config.prediction_type,
            stochastic=eta > 0,
        ),
        rule=StepRule(stochastic=eta > 0),
    )


def _distilled_timesteps(config: ScheduleConfig, name: str, steps: Steps) -> np.ndarray:
    """Evenly spaced among the distillation timesteps, or those given: [T] int64."""
    if steps.timesteps is not None:
        return np.array(steps.timesteps[steps.start :], np.int64)
    original = config.original_inference_steps
    if not 1 <= original <= config.num_train_timesteps:
        raise InputError(
            f"scheduler_config.json has original_inference_steps={original}: expected 1 to "
            f"num_train_timesteps={config.num_train_timesteps}; correct the file"
        )
    if steps.count > original:
        raise InputError(
            f"num_inference_steps={steps.count} with {name}: expected at most "
            f"original_inference_steps={original}; use fewer steps (4 to 8 are usual)"
        )
    distilled = np.arange(original, 0, -1) * (config.num_train_timesteps // original) - 1
    chosen = np.linspace(0, original, steps.count, endpoint=False).astype(np.int64)
    return distilled[chosen[steps.start :]]


def solver(
    config: ScheduleConfig, class_name: str, steps: Steps, alpha: np.ndarray, eta: float
) -> Sampler:
    """The multistep solvers DPM-Solver++, DEIS and UniPC."""
    trained = train_sigmas(config, alpha)
    sigmas = respaced_sigmas(config, steps.count, trained[::-1], use_lu_lambdas=class_name == DPM)
    final = trained[0]
    if sigmas is None:
        last = None
        if class_name == DPM:
            # λ = -log σ decreases with the timestep; skip timesteps below the clip.
            last = int(np.sum(-np.log(trained) >= config.lambda_min_clipped))
        timesteps = spaced_timesteps(config, steps, skip_last=True, last=last).round()
        sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    else:
        if class_name == DPM and config.beta_schedule == "squaredcos_cap_v2":
            raise InputError(
                "DPMSolverMultistepScheduler with Karras or Lu sigmas and beta_schedule="
                "'squaredcos_cap_v2' is not supported (diffusers truncates its timesteps to "
                "integers, so rounding errors decide): choose another scheduler"
            )
        timesteps = timesteps_of(sigmas, trained).round()
        if class_name in (DEIS, UNIPC):
            final = sigmas[-1]
    ends_above_zero = class_name == DEIS or config.final_sigmas_type == "sigma_min"
    sigmas = _with_final(sigmas, final if ends_above_zero else 0.0)[steps.start :]
    make = {DPM: _dpm_solver, DEIS: _deis, UNIPC: _unipc}[class_name]
    rows, rule = make(config, sigmas, steps)
    return Sampler(
        timesteps=timesteps[steps.start :].astype(np.float32),
        init_noise_sigma=1.0,
        levels=Levels.of_alphas_cumprod(1 / (sigmas[:-1] ** 2 + 1)),
        rows=rows,
        rule=rule,
    )


def _dpm_solver(config: ScheduleConfig, sigmas: np.ndarray, whole: Steps) -> tuple[Rows, StepRule]:
    """Chooses the order of each step like `DPMSolverMultistepScheduler.step`."""
    steps, highest = len(sigmas) - 1, config.solver_order
    stochastic = config.algorithm_type == "sde-dpmsolver++"
    if stochastic and highest == 3:
        raise InputError(
            "sde-dpmsolver++ with solver_order=3 is not supported (diffusers' own formula has a "
            "wrong sign): expected 1 or 2; correct scheduler_config.json"
        )
    orders = [min(i + 1, highest) for i in range(steps)]
    careful = config.lower_order_final and whole.count < 15
    if careful and steps > 1:
        orders[-2] = min(orders[-2], 2)
    if careful or config.euler_at_final or config.final_sigmas_type == "zero":
        orders[-1] = 1
    rows = multistep.dpm_solver(
        sigmas,
        config.prediction_type,
        orders=orders,
        max_order=highest,
        heun=config.solver_type == "heun",
        stochastic=stochastic,
    )
    return rows, StepRule(order=highest, stochastic=stochastic)


def _unipc(config: ScheduleConfig, sigmas: np.ndarray, whole: Steps) -> tuple[Rows, StepRule]:
    """Chooses the order of each step like `UniPCMultistepScheduler.step`."""
    steps, highest = len(sigmas) - 1, config.solver_order
    orders = [min(i + 1, highest) for i in range(steps)]
    if config.lower_order_final:
        orders = [min(order, steps - i) for i, order in enumerate(orders)]
    rows = multistep.unipc(
        sigmas,
        config.prediction_type,
        orders=orders,
        max_order=highest,
        bh1=config.solver_type == "bh1",
        uncorrected=tuple(step - whole.start for step in config.disable_corrector),
    )
    return rows, StepRule(order=highest, corrects=True)


def _deis(config: ScheduleConfig, sigmas: np.ndarray, whole: Steps) -> tuple[Rows, StepRule]:
    """Chooses the order of each step like `DEISMultistepScheduler.step`."""
    steps, highest = len(sigmas) - 1, config.solver_order
    orders = [min(i + 1, highest) for i in range(steps)]
    if config.lower_order_final and whole.count < 15:
        orders = [min(order, steps - i) for i, order in enumerate(orders)]
    rows = multistep.deis(sigmas, config.prediction_type, orders=orders, max_order=highest)
    return rows, StepRule(order=highest)


def _with_final(sigmas: np.ndarray, final: float) -> np.ndarray:
    """[T + 1] float64, rounded to float32 as in diffusers.

    This makes the last Karras sigma and an equal final one identical; in float64 the final one
    could be larger.
    """
    return np.append(sigmas, final).astype(np.float32).astype(np.float64)
