"""Keeps Orbax's pages of traceback off the screen; what failed is raised, and told in one line."""

import contextlib
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any


def _from_orbax(path: str) -> bool:
    return "orbax" in path


def _is_told_otherwise(record: logging.LogRecord) -> bool:
    """Of a record: whether it is about a failure that Orbax raises as well."""
    if record.name == "asyncio":
        return record.getMessage().startswith(("Task exception was never", "Task was destroyed"))
    return record.exc_info is not None and _from_orbax(record.pathname)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """While it lasts, a read or write that fails prints nothing.

    When one array fails, Orbax abandons its other tasks. These fail, each with a traceback of its
    own, when TensorStore answers them or when they are collected.
    """
    hook = sys.unraisablehook

    def pass_on(unraisable: Any) -> None:
        coroutine = unraisable.object
        abandoned = inspect.iscoroutine(coroutine) and _from_orbax(coroutine.cr_code.co_filename)
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def keep(record: logging.LogRecord) -> bool:
        return not _is_told_otherwise(record)

    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    sys.unraisablehook = pass_on
    for logger in loggers:
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(keep)


def let_tasks_end() -> None:
    """To be called inside `quiet_orbax` after a failure, when its exception is no longer held."""
    # TensorStore's threads still answer to the abandoned tasks; then these can be collected.
    time.sleep(0.3)
    gc.collect()
