"""`python -m benchmarks.scaling`: what chips exchange in a denoising step, by how they share it.

InstantID on SDXL base, bfloat16, with guidance, compiled for meshes of a TPU topology's chips
without a TPU. Of each chip: bytes of its collectives, memory and operations. The compiler takes the
first windows that will do, so its seconds are not sampling's.
"""

import os
from typing import Any

# Compiling for another kind of device, JAX itself needs only a CPU.
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
    """Compiles the step for each mesh, and tells what it takes on each chip.

    Args:
      topology: such as v5e:2x2 or v5p:2x2x1.
      meshes: each as `instantid generate --mesh` takes it; as many pictures as it has at a time.
      record: write them to benchmarks/results/scaling.json in place of the same meshes' last.
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
        f"{result['temp_bytes'] / 1e6:.0f} MB of them temporaries"
    )


if __name__ == "__main__":
    import tyro

    with entry("scaling"):
        tyro.cli(main, prog="python -m benchmarks.scaling")
