"""Counts records that had to be replaced, and ends a run that has too many."""

import logging
import threading

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)

# The share is of at least so many examples, so that one bad record among the first ends no run.
_FEWEST = 1000
# A data set with a bad shard would otherwise fill the log.
_TOLD = 10


class CorruptionCount:
    """How many of the examples that this process read had to be replaced; threads may share it.

    Attributes:
      examples: examples read.
      corrupt: records among them that could not be used; a replacement that is bad counts again.
    """

    def __init__(self, max_share: float):
        self.examples = 0
        self.corrupt = 0
        self._max_share = max_share
        self._lock = threading.Lock()

    def example(self) -> None:
        """Counts an example that was made."""
        with self._lock:
            self.examples += 1

    def record(self, name: str, reason: str) -> None:
        """Counts a corrupt record.

        Raises:
          InputError: if there are too many.
        """
        with self._lock:
            self.corrupt += 1
            corrupt, examples = self.corrupt, self.examples
        if corrupt > self._max_share * max(examples, _FEWEST):
            raise InputError(
                f"{corrupt} corrupt records in {examples + 1} examples exceed "
                f"max_corrupt_share={self._max_share:g}; the last is {name}: {reason}"
            )
        if corrupt <= _TOLD:
            more = "; further ones are counted but not logged" if corrupt == _TOLD else ""
            logger.warning("replaced corrupt %s: %s%s", name, reason, more)
