"""Writes metrics of steps and validations to `metrics.jsonl` and the other loggers."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from instantid_jax.runs.folder import RunFolder
from train.loggers.background import Background
from train.loggers.jsonl import JsonLines
from train.loggers.logger import Logged, Logger, Outcome
from train.loggers.names import DEFAULT, LoggerName, logger_of

# Begins the names of validation numbers.
VALIDATION = "validation/"


class MetricsWriter:
    """Writes records to all loggers of a run. A context manager.

    Only `metrics.jsonl` is written at once; the other loggers have a thread each.

    Attributes:
      outcome: how the run ends, unless an exception ends it.
    """

    def __init__(
        self,
        run: RunFolder,
        start: int,
        loggers: Sequence[LoggerName] = DEFAULT,
        settings: Mapping[str, Any] | None = None,
    ):
        """Args:
        start: the step the run resumes from; records of later steps are dropped.
        loggers: those besides `metrics.jsonl`.
        settings: the contents of the run's `config.json`.
        """
        logged = Logged(run, start, settings or {})
        self.outcome: Outcome = "finished"
        self._loggers: list[Logger] = [JsonLines(logged)]
        for name in loggers:
            self._loggers.append(Background(name, functools.partial(_make, name, logged)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._loggers:
            each.end(self.outcome if kind is None else "failed")

    def write(self, record: Mapping[str, Any]) -> None:
        """Args:
        record: includes `step`; numbers may be non-finite.
        """
        for each in self._loggers:
            each.write(record)

    def validation(self, step: int, numbers: Mapping[str, float], png: Path) -> None:
        """Writes a record of validation numbers, and the PNG if there is one."""
        if numbers:
            named = {f"{VALIDATION}{name}": value for name, value in numbers.items()}
            self.write({"step": step} | named)
        if png.is_file():
            self.image(step, "validation", png)

    def image(self, step: int, tag: str, png: Path) -> None:
        """Logs a PNG file."""
        for each in self._loggers:
            each.image(step, tag, png)


def _make(name: LoggerName, logged: Logged) -> Logger:
    return logger_of(name)(logged)


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
