"""`python -m benchmarks.recipes`: estimates the memory of a device for each training configuration.

As `benchmarks.gpu_memory`, for the configurations as they are. For those with a sharded base model,
it counts only what stays between steps: `benchmarks.pods` compiles their steps. `--record` writes
to `benchmarks/results/recipes.json`.
"""

import dataclasses
import importlib
import json
import os
from typing import Any

# Nothing is computed, so a CPU suffices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks import recording
from benchmarks.compiled_step import sdxl_networks
from benchmarks.gpu_memory import counted, resident
from benchmarks.recording import command, environment

RESULTS = recording.RESULTS / "recipes.json"
# Number of devices of each configuration.
RECIPES = {
    "finetune_lora": 1,
    "gpu_24gb": 1,
    "gpu_80gb": 1,
    "gpu_h200_8": 8,
    "instantid_sdxl": 48,
    "tpu_v5e_256": 256,
    "tpu_v6e_256": 256,
    "tpu_v5p_128": 64,
}
SIZE = (1024, 1024)


def measure(name: str) -> dict[str, Any]:
    """Estimates the memory of a configuration in `configs/`."""
    config = importlib.import_module(f"configs.{name}").get_config()
    mesh = config.mesh
    data = RECIPES[name] // (mesh.fsdp * mesh.tensor)
    config = dataclasses.replace(config, mesh=dataclasses.replace(mesh, data=data))
    networks = sdxl_networks(config)
    sharded = mesh.frozen == "sharded"
    return {
        "global_batch_size": config.global_batch_size,
        "mesh_settings": dataclasses.asdict(config.mesh),
        "micro_batches": config.step.micro_batches,
        "size": list(SIZE),
        "counted_bytes": resident(config, networks) if sharded else counted(config, networks, SIZE),
        **environment("jax", "jaxlib", "flax"),
        "command": command("benchmarks.recipes"),
    }


def main(names: tuple[str, ...] = tuple(RECIPES), record: bool = False) -> None:
    """Estimates the memory of configurations.

    Args:
      names: files in `configs/`, without `.py`.
      record: write the results to benchmarks/results/recipes.json, replacing those of these
        configurations.
    """
    for name in names:
        result = measure(name)
        print(json.dumps({name: result}), flush=True)
        if record:
            recording.write(RESULTS, recording.read(RESULTS, {}) | {name: result})


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.recipes")
