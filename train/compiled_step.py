"""The jitted training step of a configuration, and the shapes of its arguments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instantid_jax.compilation import compiler_options
from instantid_jax.components import component_shapes
from instantid_jax.sharding import batch_sharding, replicated
from train.config import TrainConfig
from train.data.buckets import Size
from train.data.latent_cache import DTYPE
from train.distillation.step import distillation_loss
from train.model import frozen_dtype, frozen_sharding
from train.networks import Networks
from train.parallel import on_mesh
from train.state import TrainState, init_state, state_sharding, trainable_shapes
from train.step import (
    Constants,
    Gradients,
    LossMaker,
    StepConfig,
    loss_and_gradients,
    micro_batch_loss,
    train_step,
)


def compiled_step(
    config: TrainConfig, networks: Networks, mesh: Mesh
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns jitted `train_step`(state, constants, batch, seed); it donates the state."""
    state = state_shapes(config, networks, mesh)
    gradients_of = on_mesh(
        gradients(config, networks, config.step),
        mesh,
        params=state.params,
        frozen=frozen_specs(config, networks, mesh),
        in_loops=gathers_in_loops(networks),
    )
    step = functools.partial(train_step, gradients_of, config.optimizer, config.step)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        step,
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


def gradients(config: TrainConfig, networks: Networks, step: StepConfig) -> Gradients:
    """Returns the function that computes a run's gradients, on one device."""
    make_loss = loss_maker(networks)
    return functools.partial(loss_and_gradients, make_loss, networks, config.objective, step)


def loss_maker(networks: Networks) -> LossMaker:
    """The loss that a run minimizes."""
    return micro_batch_loss if networks.student is None else distillation_loss


def gathers_in_loops(networks: Networks) -> bool:
    """Whether a step gathers sharded stacks block by block; a LoRA is added to whole stacks."""
    return networks.student is None and networks.lora_rank is None


def frozen_specs(
    config: TrainConfig, networks: Networks, mesh: Mesh
) -> dict[str, dict[str, PartitionSpec]]:
    """The partition specs of the frozen networks' parameters."""
    return {
        part: {name: sharding.spec for name, sharding in shardings.items()}
        for part, shardings in frozen_sharding(networks, config, mesh).items()
    }


def state_shapes(config: TrainConfig, networks: Networks, mesh: Mesh) -> TrainState:
    """Shapes and shardings of the training state."""
    shapes = jax.eval_shape(
        functools.partial(init_state, config.optimizer), trainable_shapes(networks)
    )
    return jax.tree.map(_shape, shapes, state_sharding(shapes, mesh))


def constant_shapes(config: TrainConfig, networks: Networks, mesh: Mesh) -> Constants:
    """Shapes and shardings of the arrays that no step changes."""
    everywhere = replicated(mesh)
    frozen = {}
    for name, shardings in frozen_sharding(networks, config, mesh).items():
        dtype = frozen_dtype(name, config)
        frozen[name] = {
            parameter: jax.ShapeDtypeStruct(shape.shape, dtype, sharding=shardings[parameter])
            for parameter, shape in component_shapes(name, networks.frozen[name]).items()
        }
    tokens = [jax.ShapeDtypeStruct((_prompt_length(networks),), jnp.int32, sharding=everywhere)] * 2
    alphas = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=everywhere)
    return Constants(frozen, alphas, (tokens[0], tokens[1]))


def batch_shapes(
    config: TrainConfig, networks: Networks, mesh: Mesh, size: Size
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a batch of images of `size` (height, width)."""
    rows, length = config.global_batch_size, _prompt_length(networks)
    image: dict[str, tuple[tuple[int, ...], Any]] = {"images": ((*size, 3), np.uint8)}
    if config.data.cached_latents:
        vae = networks.vae.config
        latent_size = tuple(side // vae.downscale for side in size)
        image = {"latent_moments": ((*latent_size, 2 * vae.latent_channels), DTYPE)}
    arrays = image | {
        "keypoint_images": ((*size, 3), np.uint8),
        "input_ids": ((length,), np.int32),
        "input_ids_2": ((length,), np.int32),
        "id_embeds": ((networks.image_proj.config.embedding_dim,), np.float32),
        "time_ids": ((6,), np.float32),
        "kps": ((5, 2), np.float32),
        "face_box": ((4,), np.float32),
        "face_share": ((), np.float32),
        "example_crc32": ((), np.uint32),
    }
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def step_shapes(
    config: TrainConfig, networks: Networks, mesh: Mesh, size: Size
) -> tuple[TrainState, Constants, dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Shapes and shardings of `compiled_step`'s arguments, for images of `size` (height, width)."""
    return (
        state_shapes(config, networks, mesh),
        constant_shapes(config, networks, mesh),
        batch_shapes(config, networks, mesh, size),
        jax.ShapeDtypeStruct((), np.uint32, sharding=replicated(mesh)),
    )


def _prompt_length(networks: Networks) -> int:
    return networks.text_encoder.config.max_position_embeddings


def _shape(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
