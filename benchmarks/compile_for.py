"""`python -m benchmarks.compile_for --topology v5e:1x1`: compiles a denoising step without a TPU.

Compiles InstantID on SDXL base in bfloat16 for a sampling mesh of v4, v5e, v5p, v6e or tpu7x
chips. Needs the libtpu that JAX requires (`pip install 'jax[tpu]'`); its compiler works without a
chip. `--topology h200` uses JAX's CUDA plugin instead (`pip install 'jax[cuda13]'`), without
autotuning, so a real GPU may run other matrix-product kernels.
"""

import json
import os
from importlib.metadata import distributions
from typing import Any

# Ahead-of-time compilation needs no accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks import recording
from benchmarks.absent_devices import absent_devices
from benchmarks.compiled_sampling import compile_step, sdxl_networks
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry
from instantid_jax.sharding import check_shares, parse_sampling_mesh

RESULTS = recording.RESULTS / "compile_for.json"
# Package names of JAX's CUDA plugin.
CUDA_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")


def main(
    topology: str,
    mesh: str = "data=1",
    height: int = 1024,
    width: int = 1024,
    batch: int | None = None,
    guidance: bool = True,
    json: bool = False,
    record: bool = False,
) -> None:
    """Compiles the step, and reports its cost per chip.

    Args:
      topology: v5e:1x1, v6e:1x1, v4:2x2x1, v5p:2x2x1, tpu7x:2x2x1 or similar; or h200.
      mesh: sampling mesh, such as data=4,guidance=2; by default one chip.
      height: height of the images in pixels.
      width: width of the images in pixels.
      batch: images at a time; by default the mesh's data axis.
      guidance: use classifier-free guidance, which doubles the rows.
      json: print a JSON object.
      record: write the result to benchmarks/results/compile_for.json, replacing that of the same
        program.
    """
    chips = parse_sampling_mesh(mesh, absent_devices(topology))
    networks = sdxl_networks()
    batch = chips.shape["data"] if batch is None else batch
    levels = len(networks.unet.config.block_out_channels)
    check_shares(chips, (height, width), batch, guidance, levels)
    about = environment("jax", "jaxlib", "flax", compiler_package(topology))
    result = compile_step(networks, chips, batch, (height, width), guidance)
    asked = {
        "topology": topology,
        "device_kind": chips.devices.flat[0].device_kind,
        "mesh": mesh,
        "size": [height, width],
        "batch": batch,
        "guidance": guidance,
    }
    result = asked | result | about | {"command": command("benchmarks.compile_for")}
    print(_json(result) if json else _words(result))
    if record:
        results = recording.read(RESULTS, {})
        name = f"{topology} {mesh} {height}x{width} batch {batch}{' guided' if guidance else ''}"
        recording.write(RESULTS, results | {name: result})


def compiler_package(topology: str) -> str:
    """The package that provides the compiler."""
    if ":" in topology:
        return "libtpu"
    names = {each.metadata["Name"] for each in distributions()}
    return next(plugin for plugin in CUDA_PLUGINS if plugin in names)


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result)


def _words(result: dict[str, Any]) -> str:
    flops = result["flops"]
    compiled = "" if flops is None else f", {flops / 1e12:.2f} as compiled"
    return (
        f"{result['topology']} ({result['device_kind']}): {result['hbm_bytes'] / 1e9:.2f} GB of "
        f"HBM, including {result['temp_bytes'] / 1e6:.0f} MB of temporaries; "
        f"{result['flops_by_hand'] / 1e12:.2f} TFLOP per step by hand{compiled}; "
        f"{result['collective_bytes'] / 1e6:.1f} MB exchanged; compiled in "
        f"{result['compile_seconds']} s"
    )


if __name__ == "__main__":
    import tyro

    with entry("compile_for"):
        tyro.cli(main, prog="python -m benchmarks.compile_for")
