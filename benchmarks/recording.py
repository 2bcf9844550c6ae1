"""The environment of a benchmark, and the files of its results."""

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment(*packages: str) -> dict[str, Any]:
    """Package versions, the processor, and its load before the measurement."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.machine()


def command(module: str) -> str:
    """The command line of this process."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def write(path: Path, results: Any) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
