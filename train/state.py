"""The training state: its contents, initialization and sharding."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from instantid_jax.components import component_shapes
from instantid_jax.params import Params, join_parts
from instantid_jax.sharding import replicated, shard_params
from train.distillation.factors import factor_shapes
from train.networks import Networks
from train.optimizer import OptimizerConfig, make_optimizer


class TrainState(NamedTuple):
    """Everything that a step changes and a checkpoint stores.

    Attributes:
      step: int32 scalar, the number of optimizer steps taken.
      params: float32 master weights of the trainables, prefixed by part.
      opt_state: the optimizer's state.
      ema: moving average of `params`, or empty.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema: Params


def trainable_shapes(networks: Networks) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and float32 shapes of all trainables."""
    if networks.student is not None:
        return factor_shapes(networks.unet, networks.student.config.rank)
    if networks.lora_rank is not None:
        return {
            name: shape
            for part in networks.trainable
            for name, shape in factor_shapes(networks.of(part), networks.lora_rank, part).items()
        }
    parts = {name: component_shapes(name, networks.of(name)) for name in networks.trainable}
    return {
        name: jax.ShapeDtypeStruct(value.shape, jnp.float32)
        for name, value in join_parts(parts).items()
    }


def init_trainables(
    networks: Networks, unet: Params, key: jax.Array, *, zero_id_values: bool = False
) -> Params:
    """Initializes the trainables, where all parts are trained.

    IdentityNet copies the UNet's encoder half. Its zero convolutions and the zero last layer of its
    conditioning embedding make it contribute nothing at first. ID keys and values copy the text's.
    The Resampler is random.

    Args:
      unet: the base UNet's parameters.
      zero_id_values: initialize ID values to zero, so that step 0 reproduces the base model.
    """
    k_resampler, k_controlnet = jax.random.split(key)
    controlnet = {}
    for name, value in networks.controlnet.init(k_controlnet).items():
        is_zero = name.startswith(
            (
                "controlnet_down_blocks.",
                "controlnet_mid_block.",
                "controlnet_cond_embedding.conv_out.",
            )
        )
        # The UNet has no conditioning embedding, so that keeps its random initialization.
        fresh = jnp.zeros_like(value) if is_zero else value
        controlnet[name] = unet.get(name, fresh)
    adapter = {}
    for name in component_shapes("ip_adapter", networks.unet):
        source = unet[name.replace("to_k_ip", "to_k").replace("to_v_ip", "to_v")]
        is_zero = zero_id_values and ".to_v_ip." in name
        adapter[name] = jnp.zeros_like(source) if is_zero else source
    parts = {
        "image_proj": networks.image_proj.init(k_resampler),
        "ip_adapter": adapter,
        "controlnet": controlnet,
    }
    # Copies, because the step donates the state and the frozen UNet must stay alive.
    return {name: jnp.array(v, jnp.float32, copy=True) for name, v in join_parts(parts).items()}


def init_state(optimizer: OptimizerConfig, params: Params) -> TrainState:
    """The state before the first step."""
    ema = optimizer.ema_decay is not None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(optimizer, params).init(params),
        ema={name: jnp.array(v, copy=True) for name, v in params.items()} if ema else {},
    )


def state_sharding(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of each array of a state or its shapes.

    Moments follow their parameters. Factored ones, which are small, are replicated.
    """
    by_name = shard_params(state.params, mesh)
    everywhere = replicated(mesh)

    def place(path: tuple, value: jax.Array) -> jax.sharding.Sharding:
        # The path of a parameter or its moment ends with the parameter's name.
        name = getattr(path[-1], "key", None) if path else None
        if name not in by_name or value.shape != state.params[name].shape:
            return everywhere
        return by_name[name]

    return jax.tree_util.tree_map_with_path(place, state)
