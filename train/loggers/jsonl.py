"""Logs to `metrics.jsonl`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.loggers.logger import Logged, Outcome
from train.runs.json_lines import append_line, cut_metrics


class JsonLines:
    """One line per step with the whole record; non-finite values become null.

    Lines of steps after the one that is resumed from are removed.
    """

    def __init__(self, logged: Logged):
        self._path = logged.run.metrics
        cut_metrics(logged.run, logged.start)

    def write(self, record: Mapping[str, Any]) -> None:
        append_line(self._path, record)

    def image(self, step: int, tag: str, png: Path) -> None:
        """Does nothing: images are files of the run already."""

    def end(self, outcome: Outcome) -> None:
        """Does nothing: `events.jsonl` has the run's end."""
