"""Sums a GPU's time by kernel, from a profile."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

# The first match wins; XLA names its kernels after the operations they fuse.
KINDS = (
    ("attention", r"sdpa|fmha|flash|attention"),
    ("convolutions", r"fprop|conv(?!ert)|implicit|wgrad|dgrad"),
    ("matrix products", r"gemm|nvjet|cublas|cutlass|splitk"),
    ("copies, slices, transposes", r"transpose|copy|memcpy|memset|slice|concatenate|pad"),
    ("norms, activations, sums", r""),
)


def kernels(run: Callable[[], Any], program: str, calls: int) -> dict[str, Any] | None:
    """Runs a function under JAX's profiler, and sums the kernels of a jitted function.

    Args:
      program: the jitted function's name.
      calls: how often `run` calls it.
    Returns:
      As `summary`; None without a GPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    events = [
        (event.name, event.duration_ns)
        for plane in profile.planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for event in line.events
        if dict(event.stats).get("hlo_module", "").startswith(f"jit_{program}")
    ]
    return summary(events, calls) if events else None


def summary(events: Iterable[tuple[str, float]], calls: int) -> dict[str, Any]:
    """Milliseconds and launches per call: of all kernels, by kind, and of the slowest by name.

    Args:
      events: names and nanoseconds of the kernels of all calls.
    """
    nanoseconds, launches = Counter(), Counter()
    for name, duration in events:
        name = re.sub(r"[._]?\d+\b", "", name)
        nanoseconds[name] += duration
        launches[name] += 1

    def per_call(names: Iterable[str]) -> dict[str, float]:
        names = list(names)
        return {
            "milliseconds": round(sum(nanoseconds[name] for name in names) / calls / 1e6, 3),
            "launches": round(sum(launches[name] for name in names) / calls, 1),
        }

    kinds: dict[str, list[str]] = {kind: [] for kind, _ in KINDS}
    for name in launches:
        kinds[next(kind for kind, of in KINDS if re.search(of, name, re.I))].append(name)
    return {
        "all": per_call(launches),
        "kinds": {kind: per_call(names) for kind, names in kinds.items()},
        "most": {name: per_call([name]) for name, _ in nanoseconds.most_common(40)},
    }
