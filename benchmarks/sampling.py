"""`python -m benchmarks.sampling`: how long a picture takes, and with --peer torch how long there.

InstantID on SDXL at full size with random weights made on the device. Each side is a process. The
peer compiles while this library is measured, and stands still while this library's pictures are
timed, which its first pictures' seconds hold as well; then come its own. Both sides' weights must
fit beside each other. A last process shows what the first picture takes where the programs are
already compiled. `--small` takes the miniature's networks, for a CPU.
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
        # What was measured stays, where the rest fails.
        print(json.dumps(result, indent=1))
        if record and result["cells"]:
            recording.write(RESULTS, [*recording.read(RESULTS, []), result])


def _measure(job: Job, peer: str | None, result: dict[str, Any]) -> None:
    """Adds to a result what the sides tell."""
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        # A cache of the user's would leave nothing to compile.
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
        result |= ours.told()
        for _ in job.cases:
            ours.go()
            ours.told()
            with contextlib.ExitStack() as standing:
                for each in others:
                    standing.enter_context(each.stopped())
                ours.go()
                result["cells"].append(ours.told())
        ours.close()
        warm = side("sampling_jax", dataclasses.replace(job, cases=job.cases[:1]))
        warm.told()
        warm.go()
        result["cells"][0]["first_picture_seconds_warm"] = warm.told()["first_picture_seconds"]
        warm.close()
        for each in others:
            result[peer] = each.told() | {"cells": []}
            for cell in result["cells"]:
                each.told()
                each.go()
                theirs = each.told()
                each.go()
                result[peer]["cells"] += theirs
                _compare(cell, theirs)


def _compare(ours: dict[str, Any], theirs: list[dict[str, Any]]) -> None:
    """Notes in our cell which share of the time there its picture takes."""
    ours["ratio"] = {
        other["mode"]: round(ours["seconds"]["picture"] / other["seconds"]["picture"], 3)
        for other in theirs
    }


if __name__ == "__main__":
    import tyro

    with entry("sampling"):
        tyro.cli(main, prog="python -m benchmarks.sampling")
