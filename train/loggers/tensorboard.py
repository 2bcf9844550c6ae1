"""Logs to TensorBoard's event files in the run's folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from train.loggers.logger import Logged, Outcome, numbers


class TensorBoard:
    """Numbers as scalars, and images."""

    def __init__(self, logged: Logged):
        self._events = EventFileWriter(str(logged.run.path))
        # Makes TensorBoard hide the later steps of an earlier process.
        log = SessionLog(status=SessionLog.START)
        first = logged.start + 1
        self._events.add_event(Event(wall_time=time.time(), step=first, session_log=log))

    def write(self, record: Mapping[str, Any]) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in numbers(record).items()
        ]
        self._add(record["step"], values)

    def image(self, step: int, tag: str, png: Path) -> None:
        image = Summary.Image(encoded_image_string=png.read_bytes(), colorspace=3)
        self._add(step, [Summary.Value(tag=tag, image=image)])

    def end(self, outcome: Outcome) -> None:
        self._events.close()

    def _add(self, step: int, values: Sequence[Summary.Value]) -> None:
        summary = Summary(value=values)
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))
