"""Writes metrics of steps and validations to `metrics.jsonl` and TensorBoard."""

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from instantid_jax.runs.folder import RunFolder
from train.runs.json_lines import append_line, cut_metrics

UNPLOTTED = ("step", "examples_crc32")
# Begins the names of validation numbers.
VALIDATION = "validation/"


class MetricsWriter:
    """Writes records; their numbers also go to TensorBoard. A context manager."""

    def __init__(self, run: RunFolder, start: int):
        """Args:
        start: the step the run resumes from; records of later steps are dropped.
        """
        self._path = run.metrics
        cut_metrics(run, start)
        self._events = EventFileWriter(str(run.path))
        # Makes TensorBoard hide the later steps of an earlier process.
        log = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=start + 1, session_log=log))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._events.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Args:
        record: includes `step`; non-finite values become null.
        """
        append_line(self._path, record)
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if type(value) in (float, int) and name not in UNPLOTTED and math.isfinite(value)
        ]
        self._add(record["step"], values)

    def validation(self, step: int, numbers: Mapping[str, float], png: Path) -> None:
        """Writes a record of validation numbers, and the PNG to TensorBoard if there is one."""
        if numbers:
            named = {f"{VALIDATION}{name}": value for name, value in numbers.items()}
            self.write({"step": step} | named)
        if png.is_file():
            self.image(step, "validation", png)

    def image(self, step: int, tag: str, png: Path) -> None:
        """Adds a PNG file to TensorBoard."""
        image = Summary.Image(encoded_image_string=png.read_bytes(), colorspace=3)
        self._add(step, [Summary.Value(tag=tag, image=image)])

    def _add(self, step: int, values: Sequence[Summary.Value]) -> None:
        summary = Summary(value=values)
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def step_record(step: int, metrics: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Converts the metrics of `train.step.train_step` to plain numbers; blocks on the step."""
    values = jax.device_get(dict(metrics))
    finite = bool(values.pop("finite"))
    crc = zlib.crc32(np.asarray(values.pop("example_crc32"), np.uint32).tobytes())
    return {
        "step": step,
        **{name: float(value) for name, value in values.items()},
        "finite": finite,
        "examples_crc32": crc,
    }
