"""The noise schedule of a checkpoint, and the forward process of training."""

# jax.numpy's stubs leave the argument `device` untyped.
# pyright: reportUnknownMemberType=false

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """`scheduler_config.json`, with diffusers' keys.

    Keys that SDXL base publishes default to its values, the others to diffusers'. Only some
    scheduler classes read each key, so `samplers.make_sampler` validates the values.
    """

    class_name: str = "EulerDiscreteScheduler"  # `_class_name` in the file
    # The schedule.
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"
    # The timesteps.
    timestep_spacing: str = "leading"
    timestep_type: str = "discrete"
    steps_offset: int = 1
    interpolation_type: str = "linear"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    use_flow_sigmas: bool = False
    use_dynamic_shifting: bool = False
    shift_terminal: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -math.inf
    original_inference_steps: int = 50
    # The step.
    clip_sample: bool = False
    skip_prk_steps: bool = True
    thresholding: bool = False
    set_alpha_to_one: bool = False
    variance_type: str | None = None
    timestep_scaling: float = 10.0
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    predict_x0: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: str | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ScheduleConfig":
        """Reads the contents of a `scheduler_config.json`.

        Missing keys take the defaults above. Ignores keys that no scheduler here reads, like
        diffusers.

        Raises:
          InputError: if a value has the wrong type.
        """
        values = {
            field.name: _typed(field, config[field.name])
            for field in dataclasses.fields(cls)
            if field.name in config
        }
        if "_class_name" in config:
            values["class_name"] = str(config["_class_name"])
        return cls(**values)


# Types of the fields that may be None, by example.
_OPTIONAL = {
    "trained_betas": (0.0,),
    "shift_terminal": 0.0,
    "sigma_min": 0.0,
    "sigma_max": 0.0,
    "variance_type": "",
    "solver_p": "",
}


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """Casts `value` to its field's type: JSON has no tuples and writes some floats as integers."""
    if value is None and field.default is None:
        return None
    like = _OPTIONAL[field.name] if field.default is None else field.default
    if isinstance(like, bool) and isinstance(value, bool | None):
        return bool(value)
    if field.name == "solver_p":
        return str(value)  # a nested scheduler; rejected where it is read
    if isinstance(like, str) and isinstance(value, str):
        return value
    if isinstance(like, float) and _is_number(value):
        return float(value)
    if isinstance(like, int) and not isinstance(like, bool):
        if _is_number(value) and float(value).is_integer():
            return int(value)
    if isinstance(like, tuple) and (numbers := _numbers(value)) is not None:
        return numbers
    raise InputError(
        f"scheduler_config.json has {field.name}={value!r}: expected a value like "
        f"{like if like != '' else 'a word'!r}; correct the file"
    )


def _numbers(value: Any) -> tuple[float, ...] | None:
    """The numbers of a JSON list or a tuple; None for anything else."""
    if type(value) not in (list, tuple) or not all(map(_is_number, value)):
        return None
    return tuple(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def alphas_cumprod(config: ScheduleConfig) -> np.ndarray:
    """ᾱ_t, the share of signal left at each training timestep: [num_train_timesteps] float32.

    With `rescale_betas_zero_snr` the last value is exactly 0.

    Raises:
      InputError: for an unknown `beta_schedule`, or `trained_betas` of another length.
    Source: Ho et al. 2020, section 2; Lin et al. 2023, algorithm 1, for zero terminal SNR. Rounded
      at the same points as in diffusers' schedulers, to match their values.
    """
    betas = _betas(config)
    if config.rescale_betas_zero_snr:
        betas = _rescale_zero_terminal_snr(betas)
    return _cumprod(np.float32(1) - betas)


def _betas(config: ScheduleConfig) -> np.ndarray:
    steps = config.num_train_timesteps
    if steps < 1:
        raise InputError(
            f"num_train_timesteps={steps} in scheduler_config.json: expected 1 or more"
        )
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, np.float32)
        if betas.shape != (steps,):
            raise InputError(
                f"scheduler_config.json has {betas.size} trained_betas for num_train_timesteps="
                f"{steps}: expected one per timestep; correct the file"
            )
        return betas
    if config.beta_schedule == "linear":
        return _torch_linspace(config.beta_start, config.beta_end, steps)
    if config.beta_schedule == "scaled_linear":
        return _torch_linspace(config.beta_start**0.5, config.beta_end**0.5, steps) ** 2
    if config.beta_schedule == "squaredcos_cap_v2":
        # Nichol & Dhariwal 2021, eq. 17.
        signal = [
            math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)
        ]
        betas = [min(1 - b / a, 0.999) for a, b in itertools.pairwise(signal)]
        return np.asarray(betas, np.float32)
    raise InputError(
        f"scheduler_config.json has beta_schedule={config.beta_schedule!r}: expected linear, "
        "scaled_linear or squaredcos_cap_v2; correct the file"
    )


def _torch_linspace(start: float, end: float, steps: int) -> np.ndarray:
    """torch.linspace in float32: counts each half from its own end, rounds once per point."""
    if steps == 1:
        return np.asarray([start], np.float32)
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(steps - 1))
    i = np.arange(steps)
    points = np.where(i < steps // 2, first + step * i, last - step * (steps - 1 - i))
    return points.astype(np.float32)


def _cumprod(alphas: np.ndarray) -> np.ndarray:
    """torch.cumprod of float32 on CPU: a float64 product, rounded per entry."""
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Lin et al. 2023, algorithm 1: shifts and scales sqrt(ᾱ) so that it ends at 0."""
    root = np.sqrt(_cumprod(np.float32(1) - betas))
    first, last = root[0], root[-1]
    signal = ((root - last) * (first / (first - last))) ** 2
    return np.float32(1) - np.concatenate([signal[:1], signal[1:] / signal[:-1]])


def add_noise(
    alphas_cumprod: jax.Array, sample: jax.Array, noise: jax.Array, timestep: jax.Array
) -> jax.Array:
    """Diffuses clean latents to a timestep: sqrt(ᾱ_t) x + sqrt(1 - ᾱ_t) ε.

    Args:
      alphas_cumprod: [num_train_timesteps] float32, from `alphas_cumprod`.
      sample: [B, H, W, C], scaled by the VAE's scaling factor.
      noise: as `sample`, unit variance.
      timestep: [B] integers in [0, num_train_timesteps).
    Raises:
      ValueError: if `timestep` is not integer-typed or not [B].
    Source: Ho et al. 2020, eq. 4; diffusers' DDPMScheduler.add_noise.
    """
    signal, deviation = _signal_and_deviation(alphas_cumprod, sample, timestep)
    return signal * sample + deviation * noise


def velocity_target(
    alphas_cumprod: jax.Array, sample: jax.Array, noise: jax.Array, timestep: jax.Array
) -> jax.Array:
    """The target of v-prediction: sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x.

    Arguments and errors as for `add_noise`.
    Source: Salimans & Ho 2022, appendix D; diffusers' DDPMScheduler.get_velocity.
    """
    signal, deviation = _signal_and_deviation(alphas_cumprod, sample, timestep)
    return signal * noise - deviation * sample


def clean_estimate(
    alphas_cumprod: jax.Array,
    noisy: jax.Array,
    prediction: jax.Array,
    timestep: jax.Array,
    *,
    velocity: bool,
) -> jax.Array:
    """The clean latents implied by a prediction of noise or velocity.

    Inverts `add_noise` for a perfect prediction; arguments and errors as for `add_noise`. At zero
    terminal SNR a noise prediction does not determine the latents; the estimate is only finite.
    Source: Ho et al. 2020, eq. 15; Salimans & Ho 2022, appendix D.
    """
    signal, deviation = _signal_and_deviation(alphas_cumprod, noisy, timestep)
    if velocity:
        return signal * noisy - deviation * prediction
    return (noisy - deviation * prediction) / jnp.maximum(signal, 2**-12)


def timesteps_of_noise(alphas_cumprod: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """The first timesteps with ln(noise / signal), of deviations, at least `log_ratio`.

    Args:
      alphas_cumprod: [T] float32.
      log_ratio: any shape.
    Returns:
      int32 with the shape of `log_ratio`, in [0, T); the last timestep if none is noisy enough.
    """
    alphas = jnp.maximum(alphas_cumprod, 1e-8)  # at zero terminal SNR there is no signal
    log_ratios = (jnp.log1p(-alphas) - jnp.log(alphas)) / 2
    return jnp.minimum(jnp.searchsorted(log_ratios, log_ratio), len(alphas) - 1).astype(jnp.int32)


def _signal_and_deviation(
    alphas_cumprod: jax.Array, sample: jax.Array, timestep: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """sqrt(ᾱ_t) and sqrt(1 - ᾱ_t), each [B, 1, 1, 1]."""
    if not jnp.issubdtype(timestep.dtype, jnp.integer) or timestep.shape != sample.shape[:1]:
        raise ValueError(
            f"timestep must be integers of shape {sample.shape[:1]}: "
            f"got {timestep.dtype} {timestep.shape}"
        )
    alpha = jnp.asarray(alphas_cumprod)[timestep].reshape((-1,) + (1,) * (sample.ndim - 1))
    return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
