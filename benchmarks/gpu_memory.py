"""`python -m benchmarks.gpu_memory`: estimates the training step's memory on one GPU, without one.

Resident arrays are counted from shapes, and temporaries from the traced step (`live_bytes.py`).
The estimate is above what a fusing compiler needs, but excludes fragmentation. It takes half a
minute per row. `--record` writes to `benchmarks/results/gpu_memory.json`.
"""

import dataclasses
import json
import math
import os
from typing import Any

# Nothing is computed, so a CPU suffices. Its attention, which is counted, materializes logits.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from benchmarks import recording
from benchmarks.compiled_step import sdxl_networks
from benchmarks.live_bytes import peak_bytes
from benchmarks.recording import command, environment
from configs.gpu_80gb import get_config
from instantid_jax.sharding import TRAINING_AXES
from train.compiled_step import batch_shapes, constant_shapes, gradients, state_shapes
from train.config import MeshConfig, TrainConfig
from train.data.buckets import Size, aspect_buckets
from train.networks import Networks
from train.step import RematPolicy

RESULTS = recording.RESULTS / "gpu_memory.json"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the table; more than two micro-batches need no more memory."""

    side: int = 1024
    images: int = 1
    micro_batches: int = 1
    remat: RematPolicy = "full"
    cached_latents: bool = False
    ema: bool = False


SETTINGS = (
    Setting(side=512),
    Setting(),
    Setting(ema=True),
    Setting(cached_latents=True),
    Setting(micro_batches=2),
    Setting(images=2, micro_batches=2),
    Setting(images=4, micro_batches=2),
    Setting(images=8, micro_batches=2),
    Setting(images=4, micro_batches=2, remat="none"),
    Setting(images=12, ema=True),
)


def configuration(setting: Setting) -> TrainConfig:
    config = get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            buckets=aspect_buckets(setting.side),
            cached_latents=setting.cached_latents,
            crop="center" if setting.cached_latents else "random",
        ),
        global_batch_size=setting.images * setting.micro_batches,
        optimizer=dataclasses.replace(config.optimizer, ema_decay=0.9999 if setting.ema else None),
        step=dataclasses.replace(
            config.step, micro_batches=setting.micro_batches, remat=setting.remat
        ),
    )


def resident(config: TrainConfig, networks: Networks) -> dict[str, int]:
    """Bytes on each device that stay between steps, by purpose."""
    mesh = AbstractMesh(config.mesh.shape, TRAINING_AXES)
    state = state_shapes(config, networks, mesh)
    return {
        "masters": _bytes(state.params),
        "moments": _bytes(state.opt_state),
        "ema": _bytes(state.ema),
        "frozen": _bytes(constant_shapes(config, networks, mesh).frozen),
    }


def counted(config: TrainConfig, networks: Networks, size: Size) -> dict[str, int]:
    """Bytes on each GPU by purpose, with a replicated base model.

    `forward_and_backward` is the peak of one micro-batch's forward and backward pass: encoders,
    activations, and gradients in the step's dtype. The update follows and, being fused, needs no
    more. Several micro-batches add a float32 sum of gradients.
    """
    mesh = AbstractMesh(config.mesh.shape, TRAINING_AXES)
    state = state_shapes(config, networks, mesh)
    constants = constant_shapes(config, networks, mesh)
    dtype = jnp.dtype(config.step.dtype)
    working_copy = {k: jax.ShapeDtypeStruct(v.shape, dtype) for k, v in state.params.items()}
    rows = config.global_batch_size // config.step.micro_batches // mesh.size
    once = dataclasses.replace(config, global_batch_size=rows, mesh=MeshConfig(data=1))
    alone = AbstractMesh((1, 1, 1), TRAINING_AXES)
    traced = jax.make_jaxpr(gradients(config, networks, config.step))(
        working_copy,
        constants,
        batch_shapes(once, networks, alone, size),
        jax.ShapeDtypeStruct((once.global_batch_size,), jnp.uint32),
        jax.eval_shape(jax.random.key, 0),
    )
    parts = resident(config, networks) | {
        "working_copy": _bytes(working_copy),
        "forward_and_backward": peak_bytes(traced.jaxpr),
        "gradient_sum": _bytes(state.params) if config.step.micro_batches > 1 else 0,
    }
    return parts | {"total": sum(parts.values())}


def measure(setting: Setting, networks: Networks) -> dict[str, Any]:
    """Estimates a setting's memory."""
    config = configuration(setting)
    return {
        **dataclasses.asdict(setting),
        "counted_bytes": counted(config, networks, (setting.side, setting.side)),
        **environment("jax", "jaxlib", "flax"),
        "command": command("benchmarks.gpu_memory"),
    }


def main(rows: tuple[int, ...] = tuple(range(len(SETTINGS))), record: bool = False) -> None:
    """Estimates the memory of training settings on one GPU.

    Args:
      rows: indices into `SETTINGS`.
      record: write the results to benchmarks/results/gpu_memory.json, replacing those of these
        rows.
    """
    networks = sdxl_networks()
    for row in rows:
        result = measure(SETTINGS[row], networks)
        print(json.dumps(result), flush=True)
        if record:
            recording.write(RESULTS, recording.read(RESULTS, {}) | {str(row): result})


def _bytes(arrays: Any) -> int:
    """Bytes of a device's shards."""
    total = 0
    for leaf in jax.tree.leaves(arrays):
        whole = leaf.sharding is None
        shape = leaf.shape if whole else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.gpu_memory")
