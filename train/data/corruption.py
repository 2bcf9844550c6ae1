"""Counts corrupt records, and ends a run that has too many."""

import logging
import threading

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)

# Minimum denominator of the share, so that a run survives a corrupt record at its start.
_MIN_EXAMPLES = 1000
# Maximum number of warnings; a dataset with a bad shard would otherwise fill the log.
_MAX_WARNINGS = 10


class CorruptionCount:
    """Counts this process's examples and the corrupt records among them; thread-safe.

    Attributes:
      examples: number of examples read.
      corrupt: number of corrupt records, including corrupt replacements.
    """

    def __init__(self, max_share: float):
        self.examples = 0
        self.corrupt = 0
        self._max_share = max_share
        self._lock = threading.Lock()

    def example(self) -> None:
        """Counts an example."""
        with self._lock:
            self.examples += 1

    def record(self, name: str, reason: str) -> None:
        """Counts a corrupt record.

        Raises:
          InputError: if the share exceeds its maximum.
        """
        with self._lock:
            self.corrupt += 1
            corrupt, examples = self.corrupt, self.examples
        if corrupt > self._max_share * max(examples, _MIN_EXAMPLES):
            raise InputError(
                f"{corrupt} corrupt records in {examples + 1} examples exceed "
                f"max_corrupt_share={self._max_share:g}; the last is {name}: {reason}"
            )
        if corrupt <= _MAX_WARNINGS:
            more = "; further ones are counted but not logged" if corrupt == _MAX_WARNINGS else ""
            logger.warning("replaced corrupt %s: %s%s", name, reason, more)
