"""`python -m benchmarks.sampling`: how long a picture takes, and with --peer torch how long there.

InstantID on SDXL at full size with random weights made on the device. Each side runs in a process
of its own, one after the other, so that neither holds the other's memory; a third shows what the
first picture takes where the programs are already compiled. `--small` takes the miniature's
networks, for a CPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any, Literal

from benchmarks import recording
from benchmarks.cells import Cell, Job
from benchmarks.recording import command, environment

RESULTS = recording.RESULTS / "sampling.json"
# Steps, and whether with guidance: the usual, and those of a distilled model.
DEFAULT = ((30, True), (4, False))


def main(
    size: int | None = None,
    batch: int = 1,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    vae_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    peer: Literal["torch"] | None = None,
    small: bool = False,
    repeats: int = 5,
    record: bool = False,
) -> None:
    """Times 30 guided steps and 4 unguided ones.

    Args:
      size: side of the pictures in pixels; None is 1024, of the small networks 128.
      batch: pictures at a time.
      dtype: what to compute in; None is bfloat16, of the small networks float32.
      vae_dtype: the same for the VAE; None is as --dtype.
      peer: measure the same in PyTorch.
      small: the miniature's networks.
      repeats: timed calls, of which the median is told.
      record: append the results to benchmarks/results/sampling.json.
    """
    dtype = dtype or ("float32" if small else "bfloat16")
    cells = tuple(
        Cell(size=size or (128 if small else 1024), batch=batch, steps=steps, guidance=guidance)
        for steps, guidance in DEFAULT
    )
    job = Job(cells=cells, small=small, dtype=dtype, vae_dtype=vae_dtype or dtype, repeats=repeats)
    first = Job(**vars(job) | {"cells": cells[:1], "repeats": 0})
    about = environment("jax", "jaxlib", "flax") | {"command": command("benchmarks.sampling")}
    with tempfile.TemporaryDirectory() as cache:
        ours = _child("benchmarks.sampling_jax", job, XDG_CACHE_HOME=cache)
        warm = _child("benchmarks.sampling_jax", first, XDG_CACHE_HOME=cache)
    ours["cells"][0]["first_picture_seconds_warm"] = warm["cells"][0]["first_picture_seconds"]
    result: dict[str, Any] = {
        "networks": "small" if small else "full",
        "dtype": dtype,
        "vae_dtype": job.vae_dtype,
        **ours,
    }
    result |= about
    try:
        if peer is not None:
            result["torch"] = _child("benchmarks.sampling_torch", job)
            _compare(ours["cells"], result["torch"]["cells"])
    finally:
        # What was measured here stays, where the peer fails.
        print(json.dumps(result, indent=1))
        if record:
            recording.write(RESULTS, [*recording.read(RESULTS, []), result])


def _compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Notes in each of our cells how many times as long its picture takes there."""
    for cell in ours:
        cell["times_torch"] = {
            other["mode"]: round(other["seconds"]["picture"] / cell["seconds"]["picture"], 3)
            for other in theirs
            if (other["steps"], other["guidance"]) == (cell["steps"], cell["guidance"])
        }


def _child(module: str, job: Job, **variables: str) -> dict[str, Any]:
    """What a module measures in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-m", module, job.to_json()],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    if ran.returncode:
        sys.exit(f"{module} ended with status {ran.returncode}")
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.sampling")
