"""Warnings that the library logs, for the page of whom they concern."""

import contextlib
import logging
import threading
from collections.abc import Iterator


class _Collector(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.thread == self._thread and message not in self.messages:
            self.messages.append(message)


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Inside, collects the warnings of this thread, such as of a prompt that was cut."""
    collector = _Collector()
    library = logging.getLogger("instantid_jax")
    library.addHandler(collector)
    try:
        yield collector.messages
    finally:
        library.removeHandler(collector)
