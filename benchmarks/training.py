"""`python -m benchmarks.training`: measures images per second and MFU of the training step.

Trains InstantID on SDXL at full size with cached latents, on random weights and batches. The mesh
has all devices on `fsdp`. `--small` uses the miniature's networks, for a CPU.
"""

import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import recording
from benchmarks.random_pipeline import draw_all
from benchmarks.recording import command, environment
from benchmarks.sizes import FULL, SMALL, training_networks
from configs.instantid_sdxl import get_config
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.sharding import training_mesh
from instantid_jax.weights.sdxl_base import SCHEDULER
from train.compiled_step import batch_shapes, compiled_step, constant_shapes, state_shapes
from train.config import MeshConfig, TrainConfig
from train.data.buckets import aspect_buckets
from train.flops import StepFlops
from train.networks import Networks
from train.state import TrainState, init_state
from train.step import Constants, RematPolicy

RESULTS = recording.RESULTS / "training.json"


def main(
    size: int | None = None,
    images: int = 8,
    micro_batches: int = 1,
    remat: RematPolicy = "none",
    scan: bool = False,
    ema: bool = False,
    small: bool = False,
    repeats: int = 10,
    record: bool = False,
) -> None:
    """Times the step.

    Args:
      size: side of the images in pixels; by default 1024, or 128 with --small.
      images: images per device, over all micro-batches.
      micro_batches: number of micro-batches.
      remat: activations that each layer saves for the backward pass.
      scan: loop over the transformer blocks of each stack.
      ema: keep a moving average of the weights.
      small: use the miniature's networks, in float32.
      repeats: number of timed steps; the median is reported.
      record: append the result to benchmarks/results/training.json.
    """
    about = environment("jax", "jaxlib", "flax", "optax") | {
        "command": command("benchmarks.training")
    }
    side = size or (128 if small else 1024)
    networks = training_networks(SMALL if small else FULL)
    networks = networks.stacked() if scan else networks
    mesh = training_mesh((1, len(jax.devices()), 1))
    paper = get_config()
    config = dataclasses.replace(
        paper,
        data=dataclasses.replace(
            paper.data, buckets=aspect_buckets(side), cached_latents=True, crop="center"
        ),
        mesh=MeshConfig(data=1, fsdp=len(jax.devices())),
        global_batch_size=images * len(jax.devices()),
        optimizer=dataclasses.replace(paper.optimizer, ema_decay=0.9999 if ema else None),
        step=dataclasses.replace(
            paper.step,
            dtype="float32" if small else "bfloat16",
            remat=remat,
            scan=scan,
            micro_batches=micro_batches,
        ),
    )
    measured = _measure(config, networks, mesh, side, repeats)
    result = {
        "networks": "small" if small else "full",
        "size": side,
        "images_per_device": images,
        "micro_batches": micro_batches,
        "remat": remat,
        "scan": scan,
        "ema": ema,
        "dtype": config.step.dtype,
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        **measured,
        **about,
    }
    print(json.dumps(result, indent=1))
    if record:
        recording.write(RESULTS, [*recording.read(RESULTS, []), result])


def _measure(
    config: TrainConfig, networks: Networks, mesh: Mesh, side: int, repeats: int
) -> dict[str, Any]:
    state = _state(config, networks, mesh)
    constants = _constants(config, networks, mesh)
    batch = _batch(config, networks, mesh, side)
    start = time.perf_counter()
    step = compiled_step(config, networks, mesh)
    step = step.lower(state, constants, batch, np.uint32(0)).compile()
    compile_seconds = time.perf_counter() - start
    seconds = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        state, metrics = step(state, constants, batch, np.uint32(i))
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    assert math.isfinite(loss), "the loss is not finite: the timings are meaningless"
    # The first two steps may still load kernels and move arrays.
    median = statistics.median(seconds[2:])
    share = StepFlops(config, networks, mesh).utilization((side, side), median)
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "compile_seconds": round(compile_seconds, 1),
        "first_step_seconds": round(seconds[0], 2),
        "step_seconds": round(median, 4),
        "fastest_step_seconds": round(min(seconds[2:]), 4),
        "images_per_second": round(config.global_batch_size / median, 2),
        "model_flop_utilization": None if share is None else round(share, 4),
        "peak_memory_gb": round(memory.get("peak_bytes_in_use", 0) / 1e9, 2) or None,
    }


def _state(config: TrainConfig, networks: Networks, mesh: Mesh) -> TrainState:
    shapes = state_shapes(config, networks, mesh)
    params = draw_all(shapes.params, jnp.float32)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    init = functools.partial(init_state, config.optimizer)
    return jax.jit(init, out_shardings=shardings, donate_argnums=0)(params)


def _constants(config: TrainConfig, networks: Networks, mesh: Mesh) -> Constants:
    shapes = constant_shapes(config, networks, mesh)
    frozen = {
        part: {
            name: jax.device_put(value, shapes.frozen[part][name].sharding)
            for name, value in draw_all(of_part, _dtype(of_part)).items()
        }
        for part, of_part in shapes.frozen.items()
    }
    schedule = ScheduleConfig.from_dict(SCHEDULER)
    alphas = jnp.asarray(alphas_cumprod(schedule), jnp.float32)
    tokens = tuple(np.zeros(shape.shape, np.int32) for shape in shapes.empty_prompt)
    place = functools.partial(jax.device_put, device=shapes.alphas_cumprod.sharding)
    return Constants(frozen, place(alphas), tuple(place(each) for each in tokens))


def _dtype(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> jnp.dtype:
    return next(iter(shapes.values())).dtype


def _batch(config: TrainConfig, networks: Networks, mesh: Mesh, side: int) -> dict[str, jax.Array]:
    """Noise for latents and embeddings, and ones for all other arrays."""
    random = np.random.default_rng(0)
    batch = {}
    for name, shape in batch_shapes(config, networks, mesh, (side, side)).items():
        if name in ("latent_moments", "id_embeds"):
            value = random.standard_normal(shape.shape, np.float32)
        else:
            value = np.ones(shape.shape)
        batch[name] = jax.device_put(value.astype(shape.dtype), shape.sharding)
    return batch


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.training")
