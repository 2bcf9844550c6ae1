"""`python -m benchmarks.sampling`: times an image here and, with --peer torch, in PyTorch.

Runs InstantID on SDXL at full size with random weights, one process per side; the weights of both
must fit on the device together. The peer compiles while this library is measured, but is paused
while this library's images are timed; its first-image seconds include these pauses. Its own images
are timed afterwards. A last process measures the first image with a warm compilation cache.
`--small` uses the miniature's networks, for a CPU.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from typing import Any, Literal

from benchmarks import recording
from benchmarks.alternation import Side
from benchmarks.cases import Case, Job
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry

RESULTS = recording.RESULTS / "sampling.json"
# (steps, guidance): the usual setting, and that of a distilled model.
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
      size: side of the images in pixels; by default 1024, or 128 with --small.
      batch: images at a time.
      dtype: compute dtype; by default bfloat16, or float32 with --small.
      vae_dtype: compute dtype of the VAE; by default --dtype.
      peer: also measure PyTorch.
      small: use the miniature's networks.
      repeats: number of timed calls; the median is reported.
      record: append the results to benchmarks/results/sampling.json.
    """
    dtype = dtype or ("float32" if small else "bfloat16")
    cases = tuple(
        Case(size=size or (128 if small else 1024), batch=batch, steps=steps, guidance=guidance)
        for steps, guidance in DEFAULT
    )
    job = Job(cases=cases, small=small, dtype=dtype, vae_dtype=vae_dtype or dtype, repeats=repeats)
    result: dict[str, Any] = {
        "networks": "small" if small else "full",
        "dtype": dtype,
        "vae_dtype": job.vae_dtype,
        "cells": [],
        **environment("jax", "jaxlib", "flax"),
        "command": command("benchmarks.sampling"),
    }
    try:
        _measure(job, peer, result)
    finally:
        # Keeps the finished measurements if a later one fails.
        print(json.dumps(result, indent=1))
        if record and result["cells"]:
            recording.write(RESULTS, [*recording.read(RESULTS, []), result])


def _measure(job: Job, peer: str | None, result: dict[str, Any]) -> None:
    """Adds the sides' measurements to a result."""
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        # The user's cache would leave nothing to compile.
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        kept = {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}

        def side(module: str, job: Job) -> Side:
            made = Side(f"benchmarks.{module}", job.to_json(), **kept)
            stack.callback(made.close)
            return made

        others = [side(f"sampling_{peer}", job)] if peer else []
        ours = side("sampling_jax", job)
        for each in others:
            each.go()
        result |= ours.result()
        for _ in job.cases:
            ours.go()
            ours.result()
            with contextlib.ExitStack() as standing:
                for each in others:
                    standing.enter_context(each.stopped())
                ours.go()
                result["cells"].append(ours.result())
        ours.close()
        warm = side("sampling_jax", dataclasses.replace(job, cases=job.cases[:1]))
        warm.result()
        warm.go()
        result["cells"][0]["first_image_seconds_warm"] = warm.result()["first_image_seconds"]
        warm.close()
        for each in others:
            result[peer] = each.result() | {"cells": []}
            for cell in result["cells"]:
                each.result()
                each.go()
                theirs = each.result()
                each.go()
                result[peer]["cells"] += theirs
                _compare(cell, theirs)


def _compare(ours: dict[str, Any], theirs: list[dict[str, Any]]) -> None:
    """Adds the ratio of our seconds per image to the peer's."""
    ours["ratio"] = {
        other["mode"]: round(ours["seconds"]["image"] / other["seconds"]["image"], 3)
        for other in theirs
    }


if __name__ == "__main__":
    import tyro

    with entry("sampling"):
        tyro.cli(main, prog="python -m benchmarks.sampling")
