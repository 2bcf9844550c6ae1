"""Samplers by name: their timesteps, coefficients and rule.

A name is equivalent to `XScheduler.from_config(pipe.scheduler.config)` in diffusers: it keeps those
of the checkpoint's settings that the class reads. So `dpmpp_2m` uses Karras sigmas if the
checkpoint's own scheduler does.
"""

import dataclasses
import operator
from collections.abc import Callable

import numpy as np

from instantid_jax.diffusion import methods
from instantid_jax.diffusion.names import (
    DDIM,
    DDPM,
    DEIS,
    DPM,
    EULER,
    EULER_ANCESTRAL,
    HEUN,
    LCM,
    PNDM,
    SAMPLERS,
    TCD,
    UNIPC,
    check_sampler,
)
from instantid_jax.diffusion.sampler import Sampler
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.errors import InputError

_METHODS: dict[str, Callable[[ScheduleConfig, str, int, np.ndarray, float], Sampler]] = {
    EULER: methods.euler,
    EULER_ANCESTRAL: methods.euler,
    HEUN: methods.heun,
    DDIM: methods.ddim,
    DDPM: methods.ddpm,
    PNDM: methods.pndm,
    DPM: methods.solver,
    DEIS: methods.solver,
    UNIPC: methods.solver,
    LCM: methods.lcm,
    TCD: methods.tcd,
}
_ALL = tuple(_METHODS)
_SOLVERS = (DPM, DEIS, UNIPC)
_SIGMAS = (EULER, HEUN, *_SOLVERS)
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
_NO_SAMPLE = (EULER_ANCESTRAL, PNDM)
# These do not read the setting of zero terminal SNR.
_FULL_SIGNAL = (HEUN, PNDM, DEIS)
# Settings that change the results: the classes that read them, and the supported values.
_TAKEN = (
    ("prediction_type", _ALL, ("epsilon", "v_prediction", "sample")),
    ("prediction_type", _NO_SAMPLE, ("epsilon", "v_prediction")),
    (
        "timestep_spacing",
        tuple(name for name in _ALL if name not in (LCM, TCD)),
        ("leading", "linspace", "trailing"),
    ),
    ("timestep_type", (EULER,), ("discrete",)),
    ("interpolation_type", (EULER,), ("linear",)),
    ("use_exponential_sigmas", _SIGMAS, (False,)),
    ("use_beta_sigmas", _SIGMAS, (False,)),
    ("use_flow_sigmas", _SOLVERS, (False,)),
    ("use_dynamic_shifting", _SOLVERS, (False,)),
    ("shift_terminal", (UNIPC,), (None,)),
    ("final_sigmas_type", (EULER, DPM, UNIPC), ("zero", "sigma_min")),
    ("clip_sample", (HEUN, DDIM, DDPM, LCM), (False,)),
    ("thresholding", (DDIM, DDPM, *_SOLVERS, LCM), (False,)),
    (
        "variance_type",
        (DPM,),
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    ),
    ("variance_type", (DDPM,), (None, "fixed_small", "fixed_small_log", "fixed_large")),
    ("skip_prk_steps", (PNDM,), (True,)),
    ("algorithm_type", (DPM,), ("dpmsolver++", "sde-dpmsolver++")),
    ("algorithm_type", (DEIS,), ("deis", "dpmsolver", "dpmsolver++")),
    ("solver_type", _SOLVERS, _SOLVER_TYPES),
    ("solver_order", _SOLVERS, (1, 2, 3)),
    ("predict_x0", (UNIPC,), (True,)),
    ("solver_p", (UNIPC,), (None,)),
)
# Their noise has a share, `eta`.
_WITH_ETA = (DDIM, TCD)


def make_sampler(
    config: ScheduleConfig, name: str | None, num_inference_steps: int, eta: float = 0.0
) -> Sampler:
    """Makes a sampler from `SAMPLERS`, or with None the checkpoint's own.

    Args:
      config: the checkpoint's `scheduler_config.json`.
      num_inference_steps: 1 to `num_train_timesteps`; for lcm and tcd, to
        `original_inference_steps`. heun evaluates the network twice a step, but once in the last.
      eta: 0 to 1, the share of noise; ddim and tcd only.
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

    if class_name in _FULL_SIGNAL:
        config = dataclasses.replace(config, rescale_betas_zero_snr=False)
    alpha = alphas_cumprod(config)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sampler = _METHODS[class_name](config, class_name, steps, alpha, float(eta))
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
    if class_name not in _WITH_ETA and eta != 0:
        raise InputError(
            f"eta={eta} has no effect on {class_name}: leave it at 0 or choose ddim or tcd"
        )
    if not 0 <= eta <= 1:
        raise InputError(f"eta={eta}: expected 0 to 1")
