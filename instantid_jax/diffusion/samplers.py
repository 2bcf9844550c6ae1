"""Samplers by name: their timesteps, coefficients and rule.

A name is equivalent to `XScheduler.from_config(pipe.scheduler.config)` in diffusers: it keeps those
of the checkpoint's settings that the class reads. So `dpmpp_2m` uses Karras sigmas if the
checkpoint's own scheduler does.
"""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Sequence

import numpy as np

from instantid_jax.diffusion import methods
from instantid_jax.diffusion.names import (
    BASES,
    DDIM,
    DDPM,
    DEIS,
    DPM,
    DPM_SDE,
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
from instantid_jax.diffusion.spacing import Steps
from instantid_jax.errors import InputError

_METHODS: dict[str, Callable[[ScheduleConfig, str, Steps, np.ndarray, float], Sampler]] = {
    EULER: methods.euler,
    EULER_ANCESTRAL: methods.euler,
    HEUN: methods.heun,
    DDIM: methods.ddim,
    DDPM: methods.ddpm,
    PNDM: methods.pndm,
    DPM: methods.solver,
    DPM_SDE: methods.dpm_solver_sde,
    DEIS: methods.solver,
    UNIPC: methods.solver,
    LCM: methods.lcm,
    TCD: methods.tcd,
}
_ALL = tuple(_METHODS)
_SOLVERS = (DPM, DEIS, UNIPC)
_SIGMAS = (EULER, HEUN, DPM_SDE, *_SOLVERS)
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
_NO_SAMPLE = (EULER_ANCESTRAL, PNDM, DPM_SDE)
# These do not read the setting of zero terminal SNR.
_FULL_SIGNAL = (HEUN, PNDM, DPM_SDE, DEIS)
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
# As in diffusers.
_TAKING = {"timesteps": (EULER, HEUN, DDPM, DPM, LCM, TCD), "sigmas": (EULER,)}
# Their noise has a share, `eta`.
_WITH_ETA = (DDIM, TCD)


def make_sampler(
    config: ScheduleConfig,
    name: str | None,
    num_inference_steps: int,
    eta: float = 0.0,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    strength: float | None = None,
    denoising_start: float | None = None,
    denoising_end: float | None = None,
) -> Sampler:
    """Makes a sampler from `SAMPLERS`, or with None the checkpoint's own.

    Args:
      config: the checkpoint's `scheduler_config.json`.
      num_inference_steps: 1 to `num_train_timesteps`; for lcm and tcd, to
        `original_inference_steps`. heun and dpmpp_sde evaluate the network twice a step, but once
        in the last.
      eta: 0 to 1, the share of noise; ddim and tcd only.
      timesteps: the timestep of each step instead, descending.
      sigmas: the sigma of each step instead, descending, and the last one's target.
      strength: 0 to 1, the share of the steps to take, the last ones, where sampling begins with an
        image; None takes all.
      denoising_start: 0 to 1, the share of the training timesteps after which to begin instead, in
        latents that are as noisy as that; there may be no step left.
      denoising_end: the share after which to end, with latents that are still noisy; there may be
        no step before.
    Raises:
      InputError: for an unknown name or scheduler class, an unsupported setting that would
        change the results, or a number of steps or eta out of range.
    """
    if name is None:
        class_name = config.class_name
        if class_name not in _ALL:
            raise InputError(
                f"the checkpoint's scheduler is {class_name}: expected one of {', '.join(_ALL)}; "
                f"choose a scheduler: {', '.join(BASES)}"
            )
    else:
        class_name, settings = SAMPLERS[check_sampler("scheduler", name)]
        config = dataclasses.replace(config, **settings)
    _check_settings(config, class_name)
    steps = _check_steps(config, class_name, num_inference_steps, timesteps, sigmas)
    if strength is not None:
        steps = dataclasses.replace(steps, start=_start(steps.count, strength))
    _check_eta(eta, class_name)

    if class_name in _FULL_SIGNAL:
        config = dataclasses.replace(config, rescale_betas_zero_snr=False)
    alpha = alphas_cumprod(config)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sampler = _METHODS[class_name](config, class_name, steps, alpha, float(eta))
        if denoising_start is not None:
            first = sampler.steps_from(_timestep(config, denoising_start))
            rest = dataclasses.replace(steps, start=first)
            begun = first < steps.count
            sampler = (
                _METHODS[class_name](config, class_name, rest, alpha, float(eta))
                if begun
                else sampler.after_all()
            )
            sampler = dataclasses.replace(sampler, init_noise_sigma=1.0)
        if denoising_end is not None:
            sampler = sampler.until(sampler.steps_from(_timestep(config, denoising_end)))
        columns = [column.astype(np.float32) for column in sampler.rows.values()]
    if not np.isfinite(columns).all():
        raise InputError(
            f"{class_name} divides by zero with num_inference_steps={steps.count} and these "
            f"settings (prediction_type={config.prediction_type!r}, rescale_betas_zero_snr="
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


def _check_steps(
    config: ScheduleConfig,
    class_name: str,
    count: int,
    timesteps: Sequence[int] | None,
    sigmas: Sequence[float] | None,
) -> Steps:
    if timesteps is not None and sigmas is not None:
        raise InputError("timesteps and sigmas say the same: give one of them")
    for given, known in (("timesteps", timesteps), ("sigmas", sigmas)):
        takers = _TAKING[given]
        if known is not None and class_name not in takers:
            names = ", ".join(name for name, (kind, _) in BASES.items() if kind in takers)
            raise InputError(f"{given} with {class_name} is not supported: choose {names}")
        if known is not None and config.use_karras_sigmas:
            raise InputError(f"{given} with Karras sigmas: give one of them")
    if timesteps is not None:
        _check_descends("timesteps", timesteps, config.num_train_timesteps - 1)
        return Steps(len(timesteps), timesteps=tuple(timesteps))
    if sigmas is not None:
        _check_descends("sigmas", sigmas, math.inf)
        if len(sigmas) < 2:
            raise InputError(f"sigmas={list(sigmas)}: expected one for each step, and the end's")
        return Steps(len(sigmas) - 1, sigmas=tuple(sigmas))
    try:
        count = operator.index(count)
    except TypeError:
        raise InputError(f"num_inference_steps={count!r}: expected a whole number") from None
    if not 1 <= count <= config.num_train_timesteps:
        raise InputError(
            f"num_inference_steps={count}: expected 1 to {config.num_train_timesteps}, the "
            "checkpoint's training timesteps"
        )
    return Steps(count)


def _timestep(config: ScheduleConfig, share: float) -> int:
    """The training timestep at which this share of the denoising is done.

    Steps that begin there or above come before, others after.
    Source: diffusers' StableDiffusionXLPipeline and ...Img2ImgPipeline; rounding included. Their
      steps of two evaluations are cut in two at other places.
    """
    count = config.num_train_timesteps
    return round(count - share * count)


def _start(count: int, strength: float) -> int:
    """The first step to take.

    Source: diffusers' StableDiffusionXLImg2ImgPipeline.get_timesteps; rounding included.
    """
    taken = min(int(count * strength), count)
    if taken < 1:
        raise InputError(
            f"strength={strength:g} of num_inference_steps={count} takes no step: expected "
            f"strength of at least {1 / count:.2g}, or more steps"
        )
    return count - taken


def _check_descends(name: str, values: Sequence[float], highest: float) -> None:
    falls = all(before > after for before, after in itertools.pairwise(values))
    if not values or not falls or values[0] > highest or values[-1] < 0:
        most = "" if highest == math.inf else f" of at most {highest}"
        raise InputError(f"{name}={list(values)}: expected falling numbers{most}, not below 0")


def _check_eta(eta: float, class_name: str) -> None:
    if class_name not in _WITH_ETA and eta != 0:
        raise InputError(
            f"eta={eta} has no effect on {class_name}: leave it at 0 or choose ddim or tcd"
        )
    if not 0 <= eta <= 1:
        raise InputError(f"eta={eta}: expected 0 to 1")
