"""Silences the tracebacks that Orbax logs for failures that it also raises."""

import contextlib
import gc
import inspect
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any


def _from_orbax(path: str) -> bool:
    return "orbax" in path


def _is_raised_too(record: logging.LogRecord) -> bool:
    """Whether a record reports a failure that Orbax also raises."""
    if record.name == "asyncio":
        # Tasks and futures: an exception that nobody retrieved, or the end of a pending one.
        frames = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
        return any(
            _from_orbax(place) for place in (record.getMessage(), *(f.filename for f in frames))
        )
    return record.exc_info is not None and _from_orbax(record.pathname)


def _is_news(record: logging.LogRecord) -> bool:
    return not _is_raised_too(record)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppresses the output of failed reads and writes.

    When one array fails, Orbax abandons its other tasks. Each of these prints its own traceback
    when TensorStore answers it or when it is garbage-collected.
    """
    hook = sys.unraisablehook

    def pass_on(unraisable: Any) -> None:
        coroutine = unraisable.object
        abandoned = inspect.iscoroutine(coroutine) and _from_orbax(coroutine.cr_code.co_filename)
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    sys.unraisablehook = pass_on
    for logger in loggers:
        logger.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(_is_news)


def silence_abandoned_tasks() -> None:
    """Suppresses, until the process ends, what asyncio reports of tasks that Orbax abandoned.

    Call it after a failed write: some tasks live as long as the exception's traceback.
    """
    logging.getLogger("asyncio").addFilter(_is_news)


def let_tasks_end() -> None:
    """Waits for abandoned tasks. Call it in `quiet_orbax` after releasing the exception."""
    # TensorStore's threads still answer the abandoned tasks, which can then be collected.
    time.sleep(0.3)
    gc.collect()
