"""`python -m benchmarks.compile_for --topology v5e:1x1`: a denoising step compiled without a TPU.

It needs the libtpu that JAX asks for (`pip install 'jax[tpu]'`), whose compiler works without a
chip. The whole of InstantID on SDXL base, bfloat16, for a sampling mesh of a topology's chips: v4,
v5e, v5p, v6e or tpu7x. `--topology h200` takes JAX's CUDA plugin instead (`pip install
'jax[cuda13]'`); without a GPU nothing is autotuned, so other matrix products may be chosen there.
"""

import json
import os
from importlib.metadata import distributions
from typing import Any

# Compiling for another kind of device, JAX itself needs only a CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks import recording
from benchmarks.absent_devices import absent_devices
from benchmarks.compiled_sampling import compile_step, sdxl_networks
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry
from instantid_jax.sharding import check_shares, parse_sampling_mesh

RESULTS = recording.RESULTS / "compile_for.json"
# The package names that JAX's plugin for CUDA has.
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
    """Compiles the step, and tells what it takes on each chip.

    Args:
      topology: such as v5e:1x1, v6e:1x1, v4:2x2x1, v5p:2x2x1 or tpu7x:2x2x1; or h200.
      mesh: how its chips share the work, such as data=4,guidance=2; one alone unless told.
      height: of the pictures, in pixels.
      width: of the pictures, in pixels.
      batch: pictures at a time; None is as many as the mesh has.
      guidance: with classifier-free guidance, which doubles the rows.
      json: print one JSON object.
      record: write it to benchmarks/results/compile_for.json in place of the same program's last.
    """
    chips = parse_sampling_mesh(mesh, absent_devices(topology))
    networks = sdxl_networks()
    batch = chips.shape["data"] if batch is None else batch
    levels = len(networks.unet.config.block_out_channels)
    check_shares(chips, (height, width), batch, guidance, levels)
    about = environment("jax", "jaxlib", "flax", _compiler(topology))
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


def _compiler(topology: str) -> str:
    """The package that compiled."""
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
        f"HBM, {result['temp_bytes'] / 1e6:.0f} MB of them temporaries; "
        f"{result['flops_by_hand'] / 1e12:.2f} TFLOP a step by hand{compiled}; "
        f"{result['collective_bytes'] / 1e6:.1f} MB exchanged; compiled in "
        f"{result['compile_seconds']} s"
    )


if __name__ == "__main__":
    import tyro

    with entry("compile_for"):
        tyro.cli(main, prog="python -m benchmarks.compile_for")
