"""`python -m benchmarks.pods`: compiles the full training step for pods and a GPU, without them.

Needs the libtpu that JAX requires (`pip install 'jax[tpu]'`), and per pod twenty minutes on two
cores and 11 GB of memory or more; for the GPU, JAX's CUDA plugin (`pip install 'jax[cuda13]'`).
Prints a JSON object each with bytes of HBM per chip, seconds, the size of the program and
collectives; `--record` writes it to `benchmarks/results/pods.json`.
"""

import dataclasses
import importlib
import json
import os
from typing import Any

# Ahead-of-time compilation needs no accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Without a GPU to tune for, its compiler finds no Triton kernel for a product of the Resampler.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")

from benchmarks import recording
from benchmarks.absent_devices import absent_devices
from benchmarks.compiled_step import compile_step, sdxl_networks
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry

RESULTS = recording.RESULTS / "pods.json"


@dataclasses.dataclass(frozen=True)
class Pod:
    """A topology or GPU, and the HBM of a device in GB (10^9 bytes)."""

    topology: str
    hbm_gb: int


# By configuration name. v5p-128 counts TensorCores, two per chip. Smaller GPUs are compiled for as
# an H200.
PODS = {
    "tpu_v5e_256": Pod("v5e:16x16", 16),
    "tpu_v5p_128": Pod("v5p:4x4x4", 95),
    "tpu_v6e_256": Pod("v6e:16x16", 32),
    "gpu_80gb": Pod("h200", 80),
    "gpu_24gb": Pod("h200", 24),
    "finetune_lora": Pod("h200", 24),
}


def measure(pod: str, side: int = 1024, scan: bool | None = None) -> dict[str, Any]:
    """Compiles the step of a pod's configuration.

    Args:
      pod: a key of `PODS`.
      side: side of the square bucket, in pixels.
      scan: instead of the configuration's `step.scan`.
    """
    kind = PODS[pod]
    compiler = "libtpu" if ":" in kind.topology else "jax-cuda13-plugin"
    about = environment("jax", "jaxlib", "flax", compiler)
    config = importlib.import_module(f"configs.{pod}").get_config()
    if scan is not None:
        config = dataclasses.replace(config, step=dataclasses.replace(config.step, scan=scan))
    devices = absent_devices(kind.topology)
    result = compile_step(config, sdxl_networks(config), devices, (side, side))
    if "bytes_per_device" in result:
        share = result["bytes_per_device"]["total"] / (kind.hbm_gb * 1e9)
        result["share_of_hbm"] = round(share, 3)
    return {
        "config": f"configs/{pod}.py",
        **dataclasses.asdict(kind),
        "chips": len(devices),
        "global_batch_size": config.global_batch_size,
        "size": [side, side],
        "mesh_settings": dataclasses.asdict(config.mesh),
        "step_settings": dataclasses.asdict(config.step),
        **result,
        **about,
        "command": command("benchmarks.pods"),
    }


def main(
    pods: tuple[str, ...] = tuple(PODS),
    side: int = 1024,
    scan: bool | None = None,
    record: bool = False,
) -> None:
    """Compiles the step of each pod's configuration.

    Args:
      pods: configuration names.
      side: side of the square bucket, in pixels.
      scan: loop over the blocks of each stack, or not, instead of the configuration's choice.
      record: write the results to benchmarks/results/pods.json, replacing those of these pods.
    """
    for pod in pods:
        result = measure(pod, side, scan)
        print(json.dumps(result), flush=True)
        if record:
            results = recording.read(RESULTS, {})
            loops = " scan" if result["step_settings"]["scan"] else ""
            recording.write(RESULTS, results | {f"{pod} {side}{loops}": result})


if __name__ == "__main__":
    import tyro

    with entry("pods"):
        tyro.cli(main, prog="python -m benchmarks.pods")
