"""Compiles the training step ahead of time from shapes, and analyzes the program."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.hlo_collectives import collectives
from benchmarks.sizes import FULL, training_networks
from instantid_jax.sharding import training_mesh
from train.compiled_step import compiled_step, step_shapes
from train.config import TrainConfig
from train.data.buckets import Size
from train.networks import TRAINABLE, Networks


def sdxl_networks(config: TrainConfig | None = None) -> Networks:
    """The networks of training on SDXL base, at full size.

    Args:
      config: decides what is trained, by default all of InstantID, and whether stacks are loops.
    """
    networks = training_networks(FULL)
    if config is None:
        return networks
    trainable = TRAINABLE[config.model.trainable]
    networks = dataclasses.replace(networks, trainable=trainable, lora_rank=config.model.lora_rank)
    return networks.stacked() if config.step.scan else networks


def compile_step(
    config: TrainConfig, networks: Networks, devices: Sequence[jax.Device], size: Size
) -> dict[str, Any]:
    """Lowers and compiles a configuration's step for possibly absent devices.

    Args:
      size: (height, width) of the images.
    Returns:
      Seconds, bytes per device, and collectives; if the program does not fit the devices, the first
      line of the compiler's error.
    """
    mesh = training_mesh(config.mesh.shape, devices)
    config.check_devices(mesh.shape["data"], mesh.shape["fsdp"])
    start = time.perf_counter()
    shapes = step_shapes(config, networks, mesh, size)
    lowered = compiled_step(config, networks, mesh).lower(*shapes)
    result: dict[str, Any] = {
        "mesh": {name: int(count) for name, count in mesh.shape.items()},
        "lowering_seconds": round(time.perf_counter() - start, 1),
        "stablehlo_lines": lowered.as_text().count("\n"),
    }
    start, cpu = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return result | {"does_not_fit": str(error).splitlines()[0]}
    result["compile_seconds"] = round(time.perf_counter() - start, 1)
    result["compile_cpu_seconds"] = round(time.process_time() - cpu, 1)
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
    }
    total = sum(parts.values()) - 2 * parts["aliased"]
    result["bytes_per_device"] = parts | {
        "total": total,
        "peak": memory.peak_memory_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    text = compiled.as_text()
    result["instructions"] = text.count(" = ")
    result["collectives"] = collectives(text)
    return result
