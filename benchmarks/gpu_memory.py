"""`python -m benchmarks.gpu_memory`: the training step's memory on one GPU, counted without one.

What lies there from step to step is counted from shapes, in seconds. For what comes and goes,
`--compile` compiles the step for one chip of TPU v5p as a stand-in: its 95 GB let most settings
through, and it keeps the same arrays as a GPU would, but holds attention's logits for a while where
a GPU's fused attention has none. That needs libtpu, many minutes and more than 20 GB a setting.
`--record` writes to `benchmarks/results/gpu_memory.json`.
"""

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

# Compiling for another kind of device, JAX itself needs only a CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from benchmarks.compiled_step import compile_step, environment, sdxl_networks, tpu_devices
from configs.gpu_80gb import get_config
from instantid_jax.sharding import training_mesh
from train.config import TrainConfig
from train.data.buckets import aspect_buckets
from train.objective import Networks
from train.program import constant_shapes, state_shapes
from train.step import RematPolicy

RESULTS = Path(__file__).parent / "results" / "gpu_memory.json"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the table; more micro-batches than two take no more memory."""

    side: int = 1024
    pictures: int = 1
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
    Setting(pictures=2, micro_batches=2),
    Setting(pictures=4, micro_batches=2),
    Setting(pictures=8, micro_batches=2),
    Setting(pictures=4, micro_batches=2, remat="none"),
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
        global_batch_size=setting.pictures * setting.micro_batches,
        optimizer=dataclasses.replace(config.optimizer, ema_decay=0.9999 if setting.ema else None),
        step=dataclasses.replace(
            config.step, micro_batches=setting.micro_batches, remat=setting.remat
        ),
    )


def counted(config: TrainConfig, networks: Networks) -> dict[str, int]:
    """Bytes of what a step cannot do without, by what it is.

    The working copy of the trainables and their gradients are there at once at the end of the way
    back, both at least in the step's dtype: clipping needs all gradients before any is used.
    Micro-batches add a float32 sum of gradients.
    """
    mesh = training_mesh((1, 1, 1), jax.devices("cpu")[:1])
    state = state_shapes(config, networks, mesh)
    frozen = constant_shapes(config, networks, mesh).frozen
    trainables = sum(leaf.size for leaf in state.params.values())
    width = jnp.dtype(config.step.dtype).itemsize
    parts = {
        "masters": _bytes(state.params),
        "moments": _bytes(state.opt_state),
        "ema": _bytes(state.ema),
        "frozen": _bytes(frozen),
        "working_copy": width * trainables,
        "gradients": width * trainables,
        "gradient_sum": 4 * trainables if config.step.micro_batches > 1 else 0,
    }
    return parts | {"total": sum(parts.values())}


def measure(setting: Setting, networks: Networks, stand_in: bool) -> dict[str, Any]:
    """Counts a setting's memory, and compiles its step for the stand-in where asked."""
    about = environment("libtpu") if stand_in else environment()
    config = configuration(setting)
    result = {**dataclasses.asdict(setting), "counted_bytes": counted(config, networks)}
    if stand_in:
        device = tpu_devices("v5p:2x2x1")[:1]
        result["stand_in"] = "one TPU v5p chip, 95 GB"
        result |= compile_step(config, networks, device, (setting.side, setting.side))
    command = shlex.join(["python", "-m", "benchmarks.gpu_memory", *sys.argv[1:]])
    return {**result, **about, "command": command}


def main(
    rows: tuple[int, ...] = tuple(range(len(SETTINGS))),
    compile: bool = False,
    record: bool = False,
) -> None:
    """Counts and compiles settings of training on one GPU.

    Args:
      rows: places in `SETTINGS`.
      compile: compile each for the stand-in too.
      record: write the results to benchmarks/results/gpu_memory.json in place of these rows' last.
    """
    networks = sdxl_networks()
    for row in rows:
        result = measure(SETTINGS[row], networks, compile)
        print(json.dumps(result), flush=True)
        if record:
            results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
            results[str(row)] = result
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _bytes(arrays: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.gpu_memory")
