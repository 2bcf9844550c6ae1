"""Logs training progress, one step behind so that devices never block on it."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
from tqdm import tqdm

from instantid_jax.errors import InputError
from train.config import TrainConfig
from train.data.buckets import Size
from train.flops import StepFlops
from train.metrics import MetricsWriter, step_record

logger = logging.getLogger(__name__)

# Minimum seconds between log lines, which replace the progress bar outside a terminal.
_SECONDS_BETWEEN_LINES = 30.0


class DivergedError(InputError):
    """Too many consecutive non-finite steps."""

    def __init__(self, step: int, what: str):
        super().__init__(
            f"step {step}: {what}; this state is not saved. Resume from the last checkpoint: with "
            "--optimizer.skip-nonfinite if single steps fail, with a lower learning rate and "
            "--change optimizer.learning-rate if many do"
        )
        self.step = step


class _Taken(NamedTuple):
    step: int
    metrics: Mapping[str, jax.Array]
    details: Mapping[str, Any]
    waited: float
    size: Size


class Progress:
    """Writes the metrics of each step once the next step is dispatched. A context manager.

    Every process has one, so that all fail on the same step. Only process 0 has a writer and a
    progress bar.
    """

    def __init__(
        self, config: TrainConfig, writer: MetricsWriter | None, start: int, flops: StepFlops
    ):
        """Args:
        start: the step the run starts or resumes from.
        """
        self._config = config
        self._writer = writer
        self._flops = flops
        self._failed = 0
        self._pending: _Taken | None = None
        self._since = time.perf_counter()
        self._logged = -math.inf
        # tqdm's None shows the bar only in a terminal.
        hidden = None if writer is not None else True
        self._bar = tqdm(total=config.last_step, initial=start, unit="step", disable=hidden)
        self._bar.set_description("compiling")
        self._compiling = True
        if writer is not None and self._bar.disable:
            logger.info("compiling the training step, which can take minutes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def take(
        self,
        step: int,
        metrics: Mapping[str, jax.Array],
        details: Mapping[str, Any],
        *,
        waited: float,
        size: Size,
    ) -> None:
        """Takes a step that was dispatched, and writes the previous one.

        Args:
          step: number of steps including this one.
          metrics: the return value of `train_step`.
          details: further entries of the record.
          waited: seconds the loop waited for the batch.
          size: (height, width) of the images.
        Raises:
          DivergedError: if the previous step exceeds `skip_nonfinite`.
        """
        previous, self._pending = self._pending, _Taken(step, metrics, details, waited, size)
        if previous is not None:
            self._write(previous)

    def flush(self) -> None:
        """Waits for the last step and writes it; raises like `take`."""
        previous, self._pending = self._pending, None
        if previous is not None:
            self._write(previous)

    def restart_clock(self) -> None:
        """Excludes the time since the last step, such as for sampling, from the next step's."""
        self._since = time.perf_counter()

    def _write(self, taken: _Taken) -> None:
        record = step_record(taken.step, taken.metrics)
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        record |= {
            "images_per_second": self._config.global_batch_size / seconds,
            "seconds_per_step": seconds,
            "data_wait_share": min(taken.waited / seconds, 1.0),
        }
        utilization = self._flops.utilization(taken.size, seconds)
        if utilization is not None:
            record["model_flop_utilization"] = utilization
        if self._writer is not None:
            self._writer.write(record | dict(taken.details))
            self._show(record)
        self._check_finite(record)

    def _show(self, record: Mapping[str, Any]) -> None:
        numbers = f"loss {record['loss']:.4f}"
        # The first step's time is that of compiling.
        if not self._compiling:
            numbers += f", {record['images_per_second']:.3g} images/s"
        self._compiling = False
        self._bar.set_description("training")
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(record["step"] - self._bar.n)
        now = time.perf_counter()
        due = (
            record["step"] == self._config.last_step or now - self._logged > _SECONDS_BETWEEN_LINES
        )
        if self._bar.disable and due:
            logger.info("step %d of %d: %s", record["step"], self._config.last_step, numbers)
            self._logged = now

    def _check_finite(self, record: Mapping[str, Any]) -> None:
        if record["finite"]:
            self._failed = 0
            return
        name = "grad_norm" if math.isfinite(record["loss"]) else "loss"
        what = f"{name} is {record[name]}"
        self._failed += 1
        if self._failed > self._config.optimizer.skip_nonfinite:
            raise DivergedError(record["step"], what)
        if self._writer is not None:
            logger.warning("skipped step %d: %s", record["step"], what)
