"""The protocol of loggers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from instantid_jax.runs.folder import RunFolder

Outcome = Literal["finished", "preempted", "failed"]

# Numbers of a record that do not measure anything.
UNPLOTTED = ("step", "examples_crc32")


class Logged(NamedTuple):
    """Arguments of every logger.

    Attributes:
      run: the run's folder; its name is the run's.
      start: the step the run starts or resumes from.
      settings: the contents of the run's `config.json`.
    """

    run: RunFolder
    start: int
    settings: Mapping[str, Any]


class Logger(Protocol):
    """Receives what a run measures, in the order of the steps.

    Only process 0 has loggers. A run that was killed resumes from an earlier step than it logged
    last, so steps after `Logged.start` may come a second time.
    """

    def write(self, record: Mapping[str, Any]) -> None:
        """Logs a step.

        Args:
          record: includes `step`; values are JSON, and numbers may be non-finite.
        """
        ...

    def image(self, step: int, tag: str, png: Path) -> None:
        """Logs a PNG file."""
        ...

    def end(self, outcome: Outcome) -> None:
        """The last call: the run reached its last step, was stopped and saved, or failed."""
        ...


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite measurements of a record."""
    return {
        name: value
        for name, value in record.items()
        if type(value) in (float, int) and name not in UNPLOTTED and math.isfinite(value)
    }
