"""The JSON Lines files of a run's folder."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantid_jax.atomic import replacing_file
from instantid_jax.runs.folder import RunFolder


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one object as a line; non-finite numbers become null.

    If a killed process left a partial last line, the object starts on a new line.
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
    """Appends an event to `events.jsonl`."""
    append_line(run.events, {"event": event, **details})


def read_events(run: RunFolder, event: str) -> list[dict[str, Any]]:
    """The run's events of one kind, without partial lines."""
    if not run.events.exists():
        return []
    found = []
    for line in run.events.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("event") == event:
            found.append(record)
    return found


def cut_after(lines: bytes, step: int) -> bytes:
    """The lines of a metrics file up to and including a step, without partial lines."""
    kept = []
    for line in lines.split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError):
            continue
    return b"".join(kept)


def cut_metrics(run: RunFolder, step: int) -> None:
    """Truncates `metrics.jsonl` after a restored step, so that no step appears twice."""
    if not run.metrics.exists():
        return
    with replacing_file(run.metrics) as temporary:
        temporary.write_bytes(cut_after(run.metrics.read_bytes(), step))
