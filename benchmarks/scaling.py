"""`python -m benchmarks.scaling`: measures the communication of a denoising step by mesh.

Compiles InstantID on SDXL base in bfloat16, with guidance, for meshes of a TPU topology's chips,
without a TPU. Reports bytes of collectives, memory and FLOPs per chip. The compiler accepts the
first suitable windows, so its compile times are not those of sampling.
"""

import os
from typing import Any

# Ahead-of-time compilation needs no accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks import recording
from benchmarks.absent_devices import absent_devices
from benchmarks.compiled_blocks import FIRST_WINDOWS
from benchmarks.compiled_sampling import compile_step, sdxl_networks
from instantid_jax.cli.entry import entry
from instantid_jax.sharding import parse_sampling_mesh

SIZE = (1024, 1024)
RESULTS = recording.RESULTS / "scaling.json"
MESHES = ("data=1", "guidance=2", "rows=2", "rows=4", "guidance=2,rows=2", "data=4")


def main(
    topology: str = "v5e:2x2",
    meshes: tuple[str, ...] = MESHES,
    record: bool = False,
) -> None:
    """Compiles the step for each mesh, and reports its cost per chip.

    Args:
      topology: TPU topology, such as v5e:2x2 or v5p:2x2x1.
      meshes: meshes in the syntax of `instantid generate --mesh`; the batch is the data axis.
      record: write the results to benchmarks/results/scaling.json, replacing those of these meshes.
    """
    about = recording.environment("jax", "jaxlib", "flax", "libtpu")
    about |= {"command": recording.command("benchmarks.scaling")}
    networks, devices = sdxl_networks(), absent_devices(topology)
    for text in meshes:
        mesh = parse_sampling_mesh(text, devices)
        batch = mesh.shape["data"]
        result = compile_step(networks, mesh, batch, SIZE, guidance=True, options=FIRST_WINDOWS)
        program = {"topology": topology, "mesh": text, "chips": mesh.size, "batch": batch}
        result = program | {"size": SIZE} | result | about
        print(_words(result), flush=True)
        if record:
            name = f"{topology} {text} {SIZE[0]}x{SIZE[1]}"
            recording.write(RESULTS, recording.read(RESULTS, {}) | {name: result})


def _words(result: dict[str, Any]) -> str:
    return (
        f"{result['mesh']}: {result['collective_bytes'] / 1e6:.1f} MB exchanged, "
        f"{result['flops'] / 1e12:.2f} TFLOP, {result['hbm_bytes'] / 1e9:.2f} GB of HBM, "
        f"including {result['temp_bytes'] / 1e6:.0f} MB of temporaries"
    )


if __name__ == "__main__":
    import tyro

    with entry("scaling"):
        tyro.cli(main, prog="python -m benchmarks.scaling")
