"""The outcome of each kind of client, and the violations of the rules."""

import collections
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.soaking.rules import Violation

# Violations that are kept in words; all are counted.
KEPT = 50


class Tally:
    """Counts what clients got; used in all their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.clients: dict[str, collections.Counter[str]] = {}
        self.violations: list[str] = []
        self.violated = 0

    def add(self, name: str, got: Iterable[str]) -> None:
        with self._lock:
            self.clients.setdefault(name, collections.Counter()).update(got)

    def violate(self, name: str, error: BaseException | str) -> None:
        """Notes and prints a violation, or an error of a client, which is one as well."""
        words = str(error) if isinstance(error, str | Violation) else f"{error!r}"
        line = f"{time.monotonic() - self._started:.0f} s, {name}: {words}"
        print(line, file=sys.stderr, flush=True)
        with self._lock:
            self.violated += 1
            if len(self.violations) < KEPT:
                self.violations.append(line)
        self.add(name, ["violation"])

    def table(self) -> str:
        """Rows of Markdown."""
        rows = ["| client | how many | what they got |", "|---|---|---|"]
        for name, got in sorted(self.clients.items()):
            each = ", ".join(f"{kind}: {count}" for kind, count in got.most_common())
            rows.append(f"| {name.replace('_', ' ')} | {got.total()} | {each} |")
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        clients = {name: dict(got.most_common()) for name, got in sorted(self.clients.items())}
        return {"clients": clients, "violated": self.violated, "violations": self.violations}
