"""Processes that prepare at the same time, of which the others stand still while one measures."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Side:
    """A module run as a process of its own, which waits before each thing it does.

    Args:
      argument: its only one.
      variables: added to its environment.
    """

    def __init__(self, module: str, argument: str, **variables: str):
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A group of its own, to stop and end it with all that it starts.
            start_new_session=True,
        )

    def go(self) -> None:
        """Lets it do the next thing."""
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `told` says how it ended.

    def told(self) -> Any:
        """What it says of the next thing, once that is done.

        Raises:
          SystemExit: it ended instead.
        """
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._module} ended with status {self._process.wait()}")
        return json.loads(line)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still inside, if it has not ended."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it, which gives its memory back."""
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        # Once it has been waited for, its number may be another's.
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)


def take_turns(things: Iterable[Any]) -> None:
    """The process's own end of `Side`: tells each thing, and waits until the next is asked for."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Whatever libraries print is no result.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for thing in things:
        print(json.dumps(thing), file=out, flush=True)
        if not sys.stdin.readline():
            return
