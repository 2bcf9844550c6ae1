"""What a GPU does with its time, by kernel, read off a profile."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

# The first that a kernel's name matches; XLA names its own by the operations they fuse.
KINDS = (
    ("attention", r"sdpa|fmha|flash|attention"),
    ("convolutions", r"fprop|conv(?!ert)|implicit|wgrad|dgrad"),
    ("matrix products", r"gemm|nvjet|cublas|cutlass|splitk"),
    ("copies, slices, transposes", r"transpose|copy|memcpy|memset|slice|concatenate|pad"),
    ("norms, activations, sums", r""),
)


def kernels(run: Callable[[], Any], program: str, calls: int) -> dict[str, Any] | None:
    """Runs something under JAX's profiler, and sums up the kernels of a jitted function.

    Args:
      program: its name.
      calls: how often `run` calls it.
    Returns:
      See `summary`; None where no GPU is seen.
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
    """Of one call the milliseconds and launches of all kernels, of each kind, and of each that
    takes most, by their names without numbers.

    Args:
      events: kernels' names and nanoseconds, of all calls.
    """
    nanoseconds, launches = Counter(), Counter()
    for name, duration in events:
        name = re.sub(r"[._]?\d+\b", "", name)
        nanoseconds[name] += duration
        launches[name] += 1

    def told(names: Iterable[str]) -> dict[str, float]:
        names = list(names)
        return {
            "milliseconds": round(sum(nanoseconds[name] for name in names) / calls / 1e6, 3),
            "launches": round(sum(launches[name] for name in names) / calls, 1),
        }

    kinds: dict[str, list[str]] = {kind: [] for kind, _ in KINDS}
    for name in launches:
        kinds[next(kind for kind, of in KINDS if re.search(of, name, re.I))].append(name)
    return {
        "all": told(launches),
        "kinds": {kind: told(names) for kind, names in kinds.items()},
        "most": {name: told([name]) for name, _ in nanoseconds.most_common(40)},
    }
