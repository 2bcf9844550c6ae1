"""`python -m benchmarks.sampling_memory --topology v5e:1x1`: memory of sampling by size, counted.

Compiles the programs of InstantID on SDXL base in bfloat16 from shapes, for a device that need not
be present (see `compile_for`) or for this machine's CPU (`--topology cpu`), and reads how much the
compiler counts for temporaries. Weights are counted from shapes. Nothing runs.
"""

import functools
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Literal

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from benchmarks import recording
from benchmarks.absent_devices import absent_devices
from benchmarks.compile_for import compiler_package
from benchmarks.compiled_sampling import DTYPE, compile_step, parameter_bytes, sdxl_networks
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry
from instantid_jax.compilation import compiler_options
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.placement import weight_format
from instantid_jax.pipeline.tiling import TILE
from instantid_jax.sharding import sampling_mesh

RESULTS = recording.RESULTS / "sampling_memory.json"

Program = Literal["step", "decode", "encode", "decode_tile", "encode_tile"]
ALL: tuple[Program, ...] = ("decode_tile", "encode_tile", "decode", "encode", "step")


def measure(
    networks: programs.Networks, device: jax.Device, program: Program, side: int
) -> dict[str, Any]:
    """Compiles a program for a square image, or a tile of this side.

    Returns:
      `bytes` in addition to weights: temporaries and results, for a step also its other arguments;
      and `compile_seconds`.
    """
    start = time.perf_counter()
    if program == "step":
        mesh = sampling_mesh(devices=[device])
        counted = compile_step(networks, mesh, 1, (side, side), True)["hbm_bytes"]
        return _result(counted - sum(part_bytes(networks).values()), start)
    sharding = jax.sharding.SingleDeviceSharding(device)

    def of(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = {
        name: jax.ShapeDtypeStruct(
            each.shape, DTYPE, sharding=weight_format(len(each.shape), device.platform, sharding)
        )
        for name, each in networks.vae.shapes.items()
    }
    latents, image = of((1, side // 8, side // 8, 4)), of((1, side, side, 3))
    function, arguments = {
        "decode": (
            functools.partial(programs.decode.__wrapped__, networks.vae, 1, jnp.dtype(jnp.uint8)),
            (params, latents, of((), jnp.int32)),
        ),
        "decode_tile": (
            functools.partial(programs.decode_tile.__wrapped__, networks.vae),
            (params, latents),
        ),
        "encode": (
            functools.partial(programs.encode_image.__wrapped__, networks.vae),
            (params, image),
        ),
    }[program.replace("encode_tile", "encode")]
    options = compiler_options(device.platform)
    compiled = jax.jit(function, compiler_options=options).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    return _result(memory.temp_size_in_bytes + memory.output_size_in_bytes, start)


def _result(counted: int, start: float) -> dict[str, Any]:
    return {"bytes": counted, "compile_seconds": round(time.perf_counter() - start)}


def part_bytes(networks: programs.Networks) -> dict[str, int]:
    """Bytes of the weights of each part."""
    parts = dict(vars(networks))
    controlnets = parts.pop("controlnets")
    parts |= {f"controlnets.{i}": network for i, network in enumerate(controlnets)}
    return {name: parameter_bytes(network, DTYPE) for name, network in parts.items()}


def peaks(weights: Mapping[str, int], step: int, decoding: int, offload: bool) -> dict[str, int]:
    """Bytes on the device in the stages that need most, by `part_bytes` and `measure`."""
    waiting = {"sample": ("text_encoder", "vae"), "decode": ("text_encoder", "controlnets")}
    own = {"sample": step, "decode": decoding}
    return {
        stage: own[stage]
        + sum(
            size
            for name, size in weights.items()
            if not (offload and name.startswith(waiting[stage]))
        )
        for stage in own
    }


def main(
    topology: str,
    sizes: tuple[int, ...] = (1024, 1536, 2048),
    programs: tuple[Program, ...] = ALL,
    record: bool = False,
) -> None:
    """Counts the memory of sampling.

    Args:
      topology: cpu, or as for `compile_for`.
      sizes: sides of square images in pixels; tiles have their own.
      programs: which to compile.
      record: write to benchmarks/results/sampling_memory.json, replacing the same programs.
    """
    device = jax.devices()[0] if topology == "cpu" else absent_devices(topology)[0]
    networks = sdxl_networks()
    weights = part_bytes(networks)
    compiler = () if topology == "cpu" else (compiler_package(topology),)
    print(json.dumps({"weights": weights}), flush=True)
    for program in programs:
        for side in (TILE,) if program.endswith("tile") else sizes:
            counted = measure(networks, device, program, side)
            about = environment("jax", "jaxlib", "flax", *compiler) | {
                "command": command("benchmarks.sampling_memory")
            }
            result = {"weights": weights, **counted, **about}
            name = f"{topology} {program} {side}"
            print(name, json.dumps(counted), flush=True)
            if record:
                recording.write(RESULTS, recording.read(RESULTS, {}) | {name: result})


if __name__ == "__main__":
    import tyro

    with entry("sampling_memory"):
        tyro.cli(main, prog="python -m benchmarks.sampling_memory")
