"""Processes that take turns: they prepare in parallel, and pause while another one is timed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Side:
    """A module that runs in its own process and waits for permission before each step.

    Args:
      argument: the module's only argument.
      variables: environment variables to add.
    """

    def __init__(self, module: str, argument: str, **variables: str):
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Its own process group, so that signals also reach its children.
            start_new_session=True,
        )

    def go(self) -> None:
        """Starts the next step."""
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `result` reports how it ended.

    def result(self) -> Any:
        """Waits for the step, and returns its result.

        Raises:
          SystemExit: if the process ended instead.
        """
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._module} ended with status {self._process.wait()}")
        return json.loads(line)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Pauses the process inside the context."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kills the process, which frees its memory."""
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        # After a wait, its id may belong to another process.
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)


def take_turns(results: Iterable[Any]) -> None:
    """The child's end of `Side`: sends each result, then waits for permission to continue."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Redirects what libraries print, which is not a result.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for result in results:
        print(json.dumps(result), file=out, flush=True)
        if not sys.stdin.readline():
            return
