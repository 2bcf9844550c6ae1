"""What a GPU does with its time, by kernel, read off a profile."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

# The first that a kernel's name matches; XLA names its own by the operations they fuse.
KINDS = (
    ("attention", r"sdpa|fmha|flash|attention"),
    ("convolutions", r"fprop|conv|implicit|wgrad|dgrad"),
    ("matrix products", r"gemm|nvjet|cublas|cutlass|splitk"),
    ("copies, slices, transposes", r"transpose|copy|memcpy|memset|slice|concatenate|pad"),
    ("norms, activations, sums", r""),
)


def kernels(run: Callable[[], Any], program: str, calls: int) -> dict[str, Any] | None:
    """Runs something under JAX's profiler, which switches CUDA graphs off.

    Args:
      program: the jitted function whose kernels are wanted.
      calls: how often `run` calls it.
    Returns:
      Of one call the milliseconds and launches of each of `KINDS`, and the kernels that take most,
      by their names without numbers; None where no GPU is seen.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
    nanoseconds, launches = Counter(), Counter()
    for plane in profile.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                if dict(event.stats).get("hlo_module", "").startswith(f"jit_{program}"):
                    name = re.sub(r"[._]?\d+\b", "", event.name)
                    nanoseconds[name] += event.duration_ns
                    launches[name] += 1
    if not launches:
        return None

    def told(names: list[str]) -> dict[str, float]:
        return {
            "milliseconds": round(sum(nanoseconds[name] for name in names) / calls / 1e6, 3),
            "launches": round(sum(launches[name] for name in names) / calls, 1),
        }

    kinds: dict[str, list[str]] = {kind: [] for kind, _ in KINDS}
    for name in launches:
        kinds[next(kind for kind, of in KINDS if re.search(of, name, re.I))].append(name)
    most = [name for name, _ in nanoseconds.most_common(40)]
    return {
        "all": told(list(launches)),
        "kinds": {kind: told(names) for kind, names in kinds.items()},
        "most": {name: told([name]) for name in most},
    }
