"""The line-by-line JSON files of a run's folder."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantid_jax.atomic import replacing_file
from instantid_jax.runs.folder import RunFolder


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one object as a line; numbers that are not finite become null.

    A torn last line, which a killed process leaves, stays a line of its own.
    """
    record = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def append_event(run: RunFolder, event: str, **details: Any) -> None:
    """Notes in events.jsonl that something happened."""
    append_line(run.events, {"event": event, **details})


def cut_after(lines: bytes, step: int) -> bytes:
    """The lines of a metrics file up to a step; torn lines are dropped."""
    kept = []
    for line in lines.split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError):
            continue
    return b"".join(kept)


def cut_metrics(run: RunFolder, step: int) -> None:
    """Cuts metrics.jsonl after a restored step, so that no step stands in it twice."""
    if not run.metrics.exists():
        return
    with replacing_file(run.metrics) as temporary:
        temporary.write_bytes(cut_after(run.metrics.read_bytes(), step))
