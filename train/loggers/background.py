"""A logger on a thread of its own, whose failure does not end the training."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.loggers.logger import Logger, Outcome

logger = logging.getLogger(__name__)

# Longest wait for what is not logged yet. Little time is left after SIGTERM.
SECONDS: Mapping[Outcome, float] = {"finished": 300.0, "preempted": 15.0, "failed": 60.0}


class Background:
    """Passes calls on to a logger, which may block or fail, for example without a network.

    After the first failure, which a warning reports, the logger gets no further call.
    """

    def __init__(self, name: str, make: Callable[[], Logger]):
        """Args:
        make: makes the logger, on its thread too.
        """
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._failed = False
        # A daemon, because a call that hangs must not keep the program from ending.
        self._thread = threading.Thread(
            target=self._work, args=(make,), name=f"logger {name}", daemon=True
        )
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        self._call(lambda made: made.write(record))

    def image(self, step: int, tag: str, png: Path) -> None:
        self._call(lambda made: made.image(step, tag, png))

    def end(self, outcome: Outcome) -> None:
        self._call(lambda made: made.end(outcome))
        self._calls.put(None)
        self._thread.join(SECONDS[outcome])
        if self._thread.is_alive():
            logger.warning(
                "%s did not take everything within %d s: metrics.jsonl has all numbers",
                self._name,
                SECONDS[outcome],
            )

    def _call(self, call: Callable[[Logger], None]) -> None:
        if not self._failed:
            self._calls.put(call)

    def _work(self, make: Callable[[], Logger]) -> None:
        try:
            made = make()
            while (call := self._calls.get()) is not None:
                call(made)
        # Whatever a client library raises: nothing that is computed depends on it.
        except Exception as error:
            self._failed = True
            reason = (str(error).splitlines() or [""])[0][:200]
            logger.warning(
                "%s failed and gets nothing more (%s: %s): metrics.jsonl has all numbers",
                self._name,
                type(error).__name__,
                reason,
            )
