"""Traces a few steps with JAX's profiler."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

# Steps to skip: the first compiles, the next ones fill the queues.
_BEFORE = 3


class Profile:
    """Writes a trace of some steps for TensorBoard and XProf. A context manager."""

    def __init__(self, folder: Path, start: int, steps: int):
        """Args:
        start: the step the run starts or resumes from.
        steps: number of steps to trace; may be 0.
        """
        self._folder = folder
        self._first = start + _BEFORE
        self._last = self._first + steps
        self._on = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def after(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Starts or stops the trace; call it after dispatching each step."""
        if step == self._first < self._last:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif step == self._last and self._on:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
