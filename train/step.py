"""One training step: gradients over micro-batches, and the optimizer's update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from instantid_jax.diffusion.schedule import add_noise, clean_estimate
from instantid_jax.errors import InputError
from instantid_jax.models.blocks import Remat, keep
from instantid_jax.params import Params, cast
from train.identity.loss import identity_losses
from train.networks import Networks
from train.objective import (
    Draws,
    ObjectiveConfig,
    draw,
    encode_batch,
    losses,
    predict,
)
from train.optimizer import OptimizerConfig, learning_rate, make_optimizer, update_ema
from train.state import TrainState

# Upper edges of the face-share bins (box area over image area) of the loss metrics.
FACE_SHARE_BINS = (0.01, 0.04, 0.1, 0.25, 1.0)
# [B] each: "loss", which is minimized, and the parts of it that have their own metric.
Losses = dict[str, jax.Array]
# The mean of "loss" and all losses of a micro-batch, as a function of the trainables.
LossOf = Callable[[Params], tuple[jax.Array, Losses]]
# Makes a `LossOf`, as `micro_batch_loss` does.
LossMaker = Callable[..., LossOf]
# Losses of a micro-batch and gradients, as of `loss_and_gradients`.
Gradients = Callable[..., tuple[Losses, Params]]
RematPolicy = Literal["none", "full", "dots"]
Dtype = Literal["bfloat16", "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How to compute a step.

    Attributes:
      dtype: compute dtype; master weights stay float32.
      remat: activations saved for the backward pass: "none" saves all, "full" only each layer's
        input, "dots" the outputs of matrix products.
      scan: hold the transformer blocks of a stack as one array per parameter, and loop over them.
        The step has a fraction of the operations and compiles faster.
      micro_batches: number of parts to split the batch into; their gradients are averaged.
    """

    dtype: Dtype = "bfloat16"
    remat: RematPolicy = "full"
    scan: bool = False
    micro_batches: int = 1

    def __post_init__(self):
        if self.micro_batches < 1:
            raise InputError(f"micro_batches={self.micro_batches}: expected 1 or more")
        for name, choices in (("dtype", get_args(Dtype)), ("remat", get_args(RematPolicy))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}"
                )


class Constants(NamedTuple):
    """Arrays that no step changes.

    Attributes:
      frozen: parameters of `Networks.frozen`, in the step's dtype; the VAE's and the recognizer's
        in float32.
      alphas_cumprod: [T] float32.
      empty_prompt: token ids [L] of "" for both text encoders.
    """

    frozen: dict[str, Params]
    alphas_cumprod: jax.Array
    empty_prompt: tuple[jax.Array, jax.Array]


def remat_wrapper(policy: RematPolicy) -> Remat:
    """The `Remat` of a policy."""
    if policy == "none":
        return keep
    saveable = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[policy]
    return Remat(functools.partial(jax.checkpoint, policy=saveable))


def loss_and_gradients(
    make_loss: LossMaker,
    networks: Networks,
    objective: ObjectiveConfig,
    step: StepConfig,
    params: Params,
    constants: Constants,
    batch: dict[str, jax.Array],
    examples: jax.Array,
    key: jax.Array,
    whole: Callable[[Params], Params] = lambda params: params,
) -> tuple[Losses, Params]:
    """Losses of one micro-batch, and the gradient of their mean.

    Args:
      make_loss: `micro_batch_loss`, or another loss of the same arguments.
      params: float32 master weights.
      batch: arrays of `train.data`.
      examples: [B] indices in the global batch.
      key: the step's.
      whole: gathers full parameters from this device's shards, in the step's dtype.
    """
    shape = latent_shape_of(networks, batch)
    draws = draw(objective, key, examples, shape, constants.alphas_cumprod)
    loss_of = make_loss(networks, objective, step, constants, batch, draws, whole)
    (_, each), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return each, gradients


def micro_batch_loss(
    networks: Networks,
    objective: ObjectiveConfig,
    step: StepConfig,
    constants: Constants,
    batch: dict[str, jax.Array],
    draws: Draws,
    whole: Callable[[Params], Params] = lambda params: params,
) -> LossOf:
    """Returns the function from float32 master weights to the loss of one micro-batch.

    Args:
      batch, whole: as for `loss_and_gradients`.
      draws: the random numbers.
    """
    dtype = jnp.dtype(step.dtype)
    alphas = constants.alphas_cumprod
    latents, conditions = encode_batch(
        networks, constants.frozen, batch, draws, constants.empty_prompt
    )
    noisy = add_noise(alphas, latents, draws.noise, draws.timesteps)
    velocity = objective.prediction_type == "v_prediction"

    def loss_of(params: Params) -> tuple[jax.Array, Losses]:
        prediction = predict(
            networks,
            constants.frozen,
            whole(cast(params, dtype)),
            noisy,
            draws.timesteps,
            conditions,
            remat_wrapper(step.remat),
        )
        loss = losses(
            objective,
            alphas,
            prediction,
            latents,
            draws.noise,
            draws.timesteps,
            batch["face_box"] / networks.vae.config.downscale,
        )
        each = {}
        if objective.identity_weight:
            identity = identity_losses(
                networks,
                constants.frozen,
                clean_estimate(alphas, noisy, prediction, draws.timesteps, velocity=velocity),
                batch["kps"],
                conditions.id_embeds,
                objective.identity_window,
            )
            each["identity_share"] = (identity != 0).astype(jnp.float32)
            identity *= alphas[draws.timesteps]
            each["identity_loss"] = identity
            loss += objective.identity_weight * identity
        return loss.mean(), each | {"loss": loss}

    return loss_of


def train_step(
    gradients_of: Gradients,
    optimizer: OptimizerConfig,
    step: StepConfig,
    state: TrainState,
    constants: Constants,
    batch: dict[str, jax.Array],
    seed: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step on a global batch.

    Args:
      gradients_of: function of (params, constants, batch, examples, key): losses of a micro-batch
        and the gradient of their mean.
      optimizer: the configuration the state was initialized with.
      batch: arrays of `train.data`, B rows.
      seed: uint32 scalar; the step's key is fold_in(seed, step).
    Returns:
      The next state, and metrics: float32 scalars; `finite`, which if false means that only
        `state.step` advanced; and the batch's `example_crc32` [B], replicated so that every process
        sees all rows. `identity_loss` is averaged before `identity_weight`; examples without one
        count as 0, and `identity_share` is the share of the others.
    """
    if bool(state.ema) != (optimizer.ema_decay is not None):
        raise ValueError(f"ema_decay={optimizer.ema_decay} does not match the state's ema")
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    examples = jnp.arange(len(batch["time_ids"]), dtype=jnp.uint32)
    parts = step.micro_batches
    run = functools.partial(gradients_of, state.params, constants)
    if parts == 1:
        each, gradients = run(batch, examples, key)
    else:
        # A micro-batch takes every parts-th example, so that no example changes device.
        micro, order = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), (batch, examples)
        )

        def accumulate(total: Params, xs: tuple) -> tuple[Params, Losses]:
            each, gradients = run(*xs, key)
            return jax.tree.map(lambda a, b: a + b / parts, total, gradients), each

        gradients, each = jax.lax.scan(
            accumulate, jax.tree.map(jnp.zeros_like, state.params), (micro, order)
        )
        each = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), each)
    transform = make_optimizer(optimizer, state.params)
    updates, opt_state = transform.update(gradients, state.opt_state, state.params)
    # A finite sum of squares keeps the optimizer's moments finite.
    finite = jnp.isfinite(each["loss"].mean()) & jnp.isfinite(optax.tree.norm(gradients))

    def unless_broken(new: Any, old: Any) -> Any:
        """Keeps floats of a non-finite step; counts advance to keep the schedule in step."""
        return jax.tree.map(
            lambda n, o: jnp.where(finite, n, o) if jnp.issubdtype(n.dtype, jnp.floating) else n,
            new,
            old,
        )

    params = unless_broken(optax.apply_updates(state.params, updates), state.params)
    opt_state = unless_broken(opt_state, state.opt_state)
    ema = state.ema
    if optimizer.ema_decay is not None:
        ema = unless_broken(update_ema(optimizer.ema_decay, ema, params), ema)
    metrics = _metrics(each, gradients, batch["face_share"])
    metrics["learning_rate"] = jnp.asarray(learning_rate(optimizer)(state.step), jnp.float32)
    metrics["finite"] = finite
    metrics["example_crc32"] = batch["example_crc32"]
    return TrainState(state.step + 1, params, opt_state, ema), metrics


def latent_shape_of(networks: Networks, batch: dict[str, jax.Array]) -> tuple[int, int, int]:
    """(H, W, C) of a batch's latents."""
    downscale = networks.vae.config.downscale
    height, width = batch["keypoint_images"].shape[1:3]
    return height // downscale, width // downscale, networks.unet.config.in_channels


def _metrics(each: Losses, gradients: Params, face_share: jax.Array) -> dict[str, jax.Array]:
    """Mean losses, the loss by face share (NaN for an empty bin), and gradient norms."""
    metrics = {name: values.mean() for name, values in each.items()}
    metrics["grad_norm"] = optax.tree.norm(gradients)
    for group in sorted({name.partition(".")[0] for name in gradients}):
        inside = {k: v for k, v in gradients.items() if k.startswith(f"{group}.")}
        metrics[f"grad_norm_{group}"] = optax.tree.norm(inside)
    lower = 0.0
    for upper in FACE_SHARE_BINS:
        inside = (face_share > lower) & (face_share <= upper)
        if lower == 0:
            inside |= face_share == 0
        total = jnp.where(inside, each["loss"], 0).sum()
        metrics[f"loss_face_to_{upper:g}"] = total / inside.sum()
        lower = upper
    return metrics
