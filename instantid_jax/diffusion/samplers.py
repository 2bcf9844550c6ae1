"""Samplers by name: their timesteps, coefficients and rule.

A name is equivalent to `XScheduler.from_config(pipe.scheduler.config)` in diffusers: it keeps those
of the checkpoint's settings that the class reads. So `dpmpp_2m` uses Karras sigmas if the
checkpoint's own scheduler does.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Self

import numpy as np

from instantid_jax.diffusion import tables
from instantid_jax.diffusion.names import (
    DDIM,
    DPM,
    EULER,
    EULER_ANCESTRAL,
    LCM,
    SAMPLERS,
    UNIPC,
    check_sampler,
)
from instantid_jax.diffusion.rules import StepRule
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.diffusion.spacing import (
    respaced_sigmas,
    spaced_timesteps,
    timesteps_of,
    train_sigmas,
)
from instantid_jax.errors import InputError

_ALL = (EULER, EULER_ANCESTRAL, DDIM, DPM, UNIPC, LCM)
_SOLVERS = (DPM, UNIPC)
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
# Settings that change the results: the classes that read them, and the supported values.
_TAKEN = (
    ("prediction_type", _ALL, ("epsilon", "v_prediction")),
    (
        "timestep_spacing",
        (EULER, EULER_ANCESTRAL, DDIM, *_SOLVERS),
        ("leading", "linspace", "trailing"),
    ),
    ("timestep_type", (EULER,), ("discrete",)),
    ("interpolation_type", (EULER,), ("linear",)),
    ("use_exponential_sigmas", (EULER, *_SOLVERS), (False,)),
    ("use_beta_sigmas", (EULER, *_SOLVERS), (False,)),
    ("use_flow_sigmas", _SOLVERS, (False,)),
    ("use_dynamic_shifting", _SOLVERS, (False,)),
    ("shift_terminal", (UNIPC,), (None,)),
    ("final_sigmas_type", (EULER, *_SOLVERS), ("zero", "sigma_min")),
    ("clip_sample", (DDIM, LCM), (False,)),
    ("thresholding", (DDIM, *_SOLVERS, LCM), (False,)),
    (
        "variance_type",
        (DPM,),
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    ),
    ("algorithm_type", (DPM,), ("dpmsolver++", "sde-dpmsolver++")),
    ("solver_type", _SOLVERS, _SOLVER_TYPES),
    ("solver_order", _SOLVERS, (1, 2, 3)),
    ("predict_x0", (UNIPC,), (True,)),
    ("solver_p", (UNIPC,), (None,)),
)


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


def make_sampler(
    config: ScheduleConfig, name: str | None, num_inference_steps: int, eta: float = 0.0
) -> Sampler:
    """Makes a sampler from `SAMPLERS`, or with None the checkpoint's own.

    Args:
      config: the checkpoint's `scheduler_config.json`.
      num_inference_steps: 1 to `num_train_timesteps`; for lcm, to `original_inference_steps`.
      eta: 0 to 1, the share of DDPM's noise; ddim only.
    Raises:
      InputError: for an unknown name or scheduler class, an unsupported setting that would
        change the results, or a number of steps or eta out of range.
    """
    if name is None:
        class_name = config.class_name
        if class_name not in _ALL:
            raise InputError(
                f"the checkpoint's scheduler is {class_name}: expected one of {', '.join(_ALL)}; "
                f"choose a scheduler: {', '.join(SAMPLERS)}"
            )
    else:
        class_name, settings = SAMPLERS[check_sampler("scheduler", name)]
        config = dataclasses.replace(config, **settings)
    _check_settings(config, class_name)
    steps = _check_steps(config, num_inference_steps)
    _check_eta(eta, class_name)

    alpha = alphas_cumprod(config)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if class_name in (EULER, EULER_ANCESTRAL):
            sampler = _make_euler(config, class_name, steps, alpha)
        elif class_name == DDIM:
            sampler = _make_ddim(config, steps, alpha, float(eta))
        elif class_name == LCM:
            sampler = _make_lcm(config, steps, alpha)
        else:
            sampler = _make_solver(config, class_name, steps, alpha)
        columns = [column.astype(np.float32) for column in sampler.rows.values()]
    if not np.isfinite(columns).all():
        raise InputError(
            f"{class_name} divides by zero with num_inference_steps={steps} and these settings "
            f"(prediction_type={config.prediction_type!r}, rescale_betas_zero_snr="
            f"{config.rescale_betas_zero_snr}, final_sigmas_type={config.final_sigmas_type!r}, "
            f"lower_order_final={config.lower_order_final}), as in diffusers: choose another "
            "scheduler"
        )
    return sampler


def _check_settings(config: ScheduleConfig, class_name: str) -> None:
    for key, classes, taken in _TAKEN:
        value = getattr(config, key)
        if class_name in classes and value not in taken:
            raise InputError(
                f"{class_name} with {key}={value!r} is not supported: expected "
                f"{' or '.join(repr(v) for v in taken)}; choose another scheduler or correct "
                "scheduler_config.json"
            )


def _check_steps(config: ScheduleConfig, steps: int) -> int:
    try:
        steps = operator.index(steps)
    except TypeError:
        raise InputError(f"num_inference_steps={steps!r}: expected a whole number") from None
    if not 1 <= steps <= config.num_train_timesteps:
        raise InputError(
            f"num_inference_steps={steps}: expected 1 to {config.num_train_timesteps}, the "
            "checkpoint's training timesteps"
        )
    return steps


def _check_eta(eta: float, class_name: str) -> None:
    if class_name != DDIM and eta != 0:
        raise InputError(f"eta={eta} has no effect on {class_name}: leave it at 0 or choose ddim")
    if not 0 <= eta <= 1:
        raise InputError(f"eta={eta}: expected 0 to 1")


def _make_euler(config: ScheduleConfig, class_name: str, steps: int, alpha: np.ndarray) -> Sampler:
    timesteps = spaced_timesteps(config, steps).astype(np.float32)
    trained = train_sigmas(config, alpha)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    final = 0.0
    if class_name == EULER:
        respaced = respaced_sigmas(config, steps, sigmas, use_lu_lambdas=False)
        if respaced is not None:
            sigmas, timesteps = respaced, timesteps_of(respaced, trained)
        if config.final_sigmas_type == "sigma_min":
            final = trained[0]
    sigmas = _with_final(sigmas, final)
    make = tables.euler if class_name == EULER else tables.euler_ancestral
    highest = sigmas.max()
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=float(
            np.sqrt(highest**2 + 1) if config.timestep_spacing == "leading" else highest
        ),
        rows=make(sigmas, config.prediction_type),
        rule=StepRule(stochastic=class_name == EULER_ANCESTRAL),
    )


def _make_ddim(config: ScheduleConfig, steps: int, alpha: np.ndarray, eta: float) -> Sampler:
    timesteps = spaced_timesteps(config, steps).round().astype(np.int64)
    if timesteps[0] >= config.num_train_timesteps or timesteps[-1] < 0:
        raise InputError(
            f"num_inference_steps={steps} with steps_offset={config.steps_offset} gives "
            f"timesteps {timesteps[0]} to {timesteps[-1]} of {config.num_train_timesteps}: use "
            "fewer steps"
        )
    # A constant stride, even if the spacing's is not constant.
    following = timesteps - config.num_train_timesteps // steps
    alpha = alpha.astype(np.float64)
    final = 1.0 if config.set_alpha_to_one else alpha[0]
    alpha_next = np.where(following >= 0, alpha[following], final)
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        rows=tables.ddim(alpha[timesteps], alpha_next, config.prediction_type, eta),
        rule=StepRule(stochastic=eta > 0),
    )


def _make_lcm(config: ScheduleConfig, steps: int, alpha: np.ndarray) -> Sampler:
    original = config.original_inference_steps
    if not 1 <= original <= config.num_train_timesteps:
        raise InputError(
            f"scheduler_config.json has original_inference_steps={original}: expected 1 to "
            f"num_train_timesteps={config.num_train_timesteps}; correct the file"
        )
    if steps > original:
        raise InputError(
            f"num_inference_steps={steps} with lcm: expected at most original_inference_steps="
            f"{original}; use fewer steps (4 to 8 are usual)"
        )
    # Evenly spaced among the distillation timesteps.
    distilled = np.arange(original, 0, -1) * (config.num_train_timesteps // original) - 1
    timesteps = distilled[np.linspace(0, original, steps, endpoint=False).astype(np.int64)]
    alpha = alpha.astype(np.float64)[timesteps]
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        rows=tables.lcm(timesteps, alpha, config.prediction_type, config.timestep_scaling),
        rule=StepRule(stochastic=True),
    )


def _make_solver(config: ScheduleConfig, class_name: str, steps: int, alpha: np.ndarray) -> Sampler:
    trained = train_sigmas(config, alpha)
    sigmas = respaced_sigmas(config, steps, trained[::-1], use_lu_lambdas=class_name == DPM)
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
        if class_name == UNIPC:
            final = sigmas[-1]
    final = final if config.final_sigmas_type == "sigma_min" else 0.0
    sigmas = _with_final(sigmas, final)
    make = _dpm_solver if class_name == DPM else _unipc
    rows, rule = make(config, sigmas)
    return Sampler(
        timesteps=timesteps.astype(np.float32),
        init_noise_sigma=1.0,
        rows=rows,
        rule=rule,
    )


def _dpm_solver(config: ScheduleConfig, sigmas: np.ndarray) -> tuple[tables.Rows, StepRule]:
    """Chooses the order of each step like `DPMSolverMultistepScheduler.step`."""
    steps, highest = len(sigmas) - 1, config.solver_order
    stochastic = config.algorithm_type == "sde-dpmsolver++"
    if stochastic and highest == 3:
        raise InputError(
            "sde-dpmsolver++ with solver_order=3 is not supported (diffusers' own formula has a "
            "wrong sign): expected 1 or 2; correct scheduler_config.json"
        )
    orders = [min(i + 1, highest) for i in range(steps)]
    careful = config.lower_order_final and steps < 15
    if careful and steps > 1:
        orders[-2] = min(orders[-2], 2)
    if careful or config.euler_at_final or config.final_sigmas_type == "zero":
        orders[-1] = 1
    rows = tables.dpm_solver(
        sigmas,
        config.prediction_type,
        orders=orders,
        max_order=highest,
        heun=config.solver_type == "heun",
        stochastic=stochastic,
    )
    return rows, StepRule(order=highest, stochastic=stochastic)


def _unipc(config: ScheduleConfig, sigmas: np.ndarray) -> tuple[tables.Rows, StepRule]:
    """Chooses the order of each step like `UniPCMultistepScheduler.step`."""
    steps, highest = len(sigmas) - 1, config.solver_order
    orders = [min(i + 1, highest) for i in range(steps)]
    if config.lower_order_final:
        orders = [min(order, steps - i) for i, order in enumerate(orders)]
    rows = tables.unipc(
        sigmas,
        config.prediction_type,
        orders=orders,
        max_order=highest,
        bh1=config.solver_type == "bh1",
        uncorrected=config.disable_corrector,
    )
    return rows, StepRule(order=highest, corrects=True)


def _with_final(sigmas: np.ndarray, final: float) -> np.ndarray:
    """[T + 1] float64, rounded to float32 as in diffusers.

    This makes the last Karras sigma and an equal final one identical; in float64 the final one
    could be larger.
    """
    return np.append(sigmas, final).astype(np.float32).astype(np.float64)
