"""AdamW, Adafactor and Muon with warmup, schedule, global-norm clipping and a weight-decay mask."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.stacks import is_stacked

# RMS of AdamW's updates in units of the learning rate (Liu et al. 2025, section 2.2).
ADAMS_RMS = 0.2
# Adafactor's second moments decay by 1 - step**-this (Shazeer & Stern 2018, section 7.2).
DECAY_POWER = 0.8
# The largest float32 below 1; a decay of 1 would divide by zero.
BELOW_ONE = 1 - 2.0**-24
# Peak of the learning rate after a warm restart, as a share of the first: what was learned stays.
RESTART_PEAK = 1 / 3
# Longest warmup after a warm restart, as a share of the steps until the next one.
RESTART_WARMUP = 0.1

Algorithm = Literal["adamw", "adafactor", "muon"]
MomentDtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019), Adafactor, or Muon for matrices and convolutions.

    Attributes:
      algorithm: "adafactor" keeps sums over rows and columns instead of the second moment of each
        weight (Shazeer & Stern 2018), at AdamW's learning rates (Zhai et al. 2021, section 3.4).
        "muon" updates kernels with their orthogonalized momentum (Jordan 2024), scaled to
        AdamW's update size (Liu et al. 2025, section 2.2), and all other parameters with NAdamW.
        Its steps take longer.
      learning_rate: peak learning rate, reached at the end of the warmup.
      schedule: decay after the warmup: none, or to zero at `decay_steps`.
      warmup_steps: steps of linear warmup from zero.
      decay_steps: length of the whole schedule including the warmup; unused if it is constant.
      restarts: steps of warm restarts (SGDR, Loshchilov & Hutter 2017), ascending. The learning
        rate decays to zero at each, then warms up to a third of the peak and decays again.
      b1: AdamW's and Adafactor's decay of the first moment. At 0, Adafactor keeps none.
      b2: AdamW's decay of the second moment, and the largest of Adafactor's.
      moment_dtype: dtype of the first moment.
      eps: AdamW's, added to the root of the second moment.
      weight_decay: of weights, times the learning rate.
      decay_all: also decay norms, biases and the Resampler's latents, as the public trainers do.
      clip_norm: maximum global norm of the gradients; None disables clipping.
      ema_decay: decay of the moving average of the weights; None keeps no average.
      skip_nonfinite: number of consecutive steps with a non-finite loss or gradient to skip before
        the run fails.
    """

    algorithm: Algorithm = "adamw"
    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 500
    decay_steps: int | None = None
    restarts: tuple[int, ...] = ()
    b1: float = 0.9
    b2: float = 0.999
    moment_dtype: MomentDtype = "float32"
    eps: float = 1e-8
    weight_decay: float = 1e-2
    decay_all: bool = False
    clip_norm: float | None = 1.0
    ema_decay: float | None = None
    skip_nonfinite: int = 0

    def __post_init__(self):
        # Below this bound, finite gradients give finite updates.
        largest = 1e18
        bounds = {
            "learning_rate": (self.learning_rate, 0, largest),
            "b1": (self.b1, 0, BELOW_ONE),
            "b2": (self.b2, 0, BELOW_ONE),
            "eps": (self.eps, 1e-30, 1),
            "weight_decay": (self.weight_decay, 0, largest),
            "warmup_steps": (self.warmup_steps, 0, float("inf")),
            "skip_nonfinite": (self.skip_nonfinite, 0, float("inf")),
            "clip_norm": (1 if self.clip_norm is None else self.clip_norm, 1e-12, float("inf")),
            "ema_decay": (0 if self.ema_decay is None else self.ema_decay, 0, 1),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                end = "below 1" if high == BELOW_ONE else f"{high:g}"
                raise InputError(f"{name}={value}: expected {low:g} to {end}")
        for name, choices in (("algorithm", Algorithm), ("moment_dtype", MomentDtype)):
            if getattr(self, name) not in get_args(choices):
                wanted = ", ".join(get_args(choices))
                raise InputError(f"{name}={getattr(self, name)!r}: expected one of {wanted}")
        if self.schedule not in ("constant", "cosine", "linear"):
            raise InputError(f"schedule={self.schedule!r}: expected constant, cosine or linear")
        if self.schedule != "constant" and (
            self.decay_steps is None or self.decay_steps <= self.warmup_steps
        ):
            raise InputError(
                f"decay_steps={self.decay_steps}: schedule={self.schedule!r} needs more than "
                f"warmup_steps={self.warmup_steps}"
            )
        self._check_restarts()

    def _check_restarts(self) -> None:
        if not self.restarts:
            return
        if self.decay_steps is None or self.schedule == "constant":
            raise InputError(
                f"restarts={self.restarts}: the constant schedule has none: use cosine or linear"
            )
        steps = (self.warmup_steps, *self.restarts, self.decay_steps)
        if any(step >= later for step, later in itertools.pairwise(steps)):
            raise InputError(
                f"restarts={self.restarts}: expected ascending steps between warmup_steps="
                f"{self.warmup_steps} and decay_steps={self.decay_steps}"
            )


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate by optimizer step."""
    if config.schedule == "constant":
        constant = optax.constant_schedule(config.learning_rate)
        return _warmed_up(constant, config.learning_rate, config.warmup_steps)
    assert config.decay_steps is not None, "the configuration checks it"
    ends = [*config.restarts, config.decay_steps]
    cycles = [_cycle(config, config.learning_rate, config.warmup_steps, ends[0])]
    for start, end in itertools.pairwise(ends):
        warmup = min(config.warmup_steps, int(RESTART_WARMUP * (end - start)))
        cycles.append(_cycle(config, RESTART_PEAK * config.learning_rate, warmup, end - start))
    return optax.join_schedules(cycles, config.restarts)


def _cycle(config: OptimizerConfig, peak: float, warmup: int, steps: int) -> optax.Schedule:
    """A warmup and the decay to zero, `steps` in total."""
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, steps - warmup)
    else:
        decay = optax.linear_schedule(peak, 0.0, steps - warmup)
    return _warmed_up(decay, peak, warmup)


def _warmed_up(after: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def is_kernel(name: str, rank: int) -> bool:
    """Whether a parameter is a matrix or convolution: those decay by default and may use Muon."""
    return rank >= 2 and name.endswith(".kernel")


def make_optimizer(config: OptimizerConfig, params: Params) -> optax.GradientTransformation:
    """Builds the gradient transformation; `params` supply names and shapes."""
    kernels = {name: is_kernel(name, len(value.shape)) for name, value in params.items()}
    # `identity` keeps the state's structure the same without clipping.
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    decaying = {name: config.decay_all or kernel for name, kernel in kernels.items()}
    if config.algorithm == "muon":
        step = _muon(config, params, kernels)
    elif config.algorithm == "adafactor":
        step = _adafactor(config, decaying)
    else:
        step = optax.adamw(
            learning_rate(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            mu_dtype=config.moment_dtype,
            weight_decay=config.weight_decay,
            mask=decaying,
        )
    return optax.chain(clip, step)


def _adafactor(
    config: OptimizerConfig, decaying: Mapping[str, bool]
) -> optax.GradientTransformation:
    """Adafactor with momentum, and AdamW's weight decay."""

    def decay(step: jax.Array, power: float) -> jax.Array:
        # Otherwise the second moments of a long run no longer change.
        return jnp.minimum(1 - (step + 1.0) ** -power, config.b2)

    momentum = optax.ema(config.b1, debias=False, accumulator_dtype=config.moment_dtype)
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=DECAY_POWER, decay_rate_fn=decay),
        optax.stateless(_clip_by_rms),
        momentum if config.b1 else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, decaying),
        optax.scale_by_learning_rate(learning_rate(config)),
    )


def _clip_by_rms(updates: Params, params: Params | None) -> Params:
    """Scales each parameter's update, in stacks each block's, to an RMS of at most 1."""
    del params
    clip = optax.clip_by_block_rms(1.0)

    def clipped(update: jax.Array) -> jax.Array:
        return clip.update(update, optax.EmptyState())[0]

    return {
        name: jax.vmap(clipped)(update) if is_stacked(name) else clipped(update)
        for name, update in updates.items()
    }


def _muon(
    config: OptimizerConfig, params: Params, kernels: Mapping[str, bool]
) -> optax.GradientTransformation:
    """Muon for the kernels, with weight decay, and AdamW for the rest."""
    # The last axis of a kernel is its outputs; the others together are its inputs, except that the
    # first axis of a stack is the blocks, which are separate kernels.
    axes = {
        name: MuonDimensionNumbers(
            tuple(range(is_stacked(name), len(value.shape) - 1)), (len(value.shape) - 1,)
        )
        if kernels[name]
        else None
        for name, value in params.items()
    }
    return muon(
        learning_rate(config),
        eps=config.eps,
        mu_dtype=config.moment_dtype,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=axes,
        consistent_rms=ADAMS_RMS,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay if config.decay_all else 0.0,
    )


def update_ema(decay: float, ema: Params, params: Params) -> Params:
    """Updates the exponential moving average.

    This form leaves the average of constant parameters exact. In float32 the weights of
    `decay * old + (1 - decay) * new` do not sum to 1; at a decay of 0.9999 the average would settle
    0.017 % too low.
    """
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)
