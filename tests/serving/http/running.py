"""A service in a process of its own, over real sockets."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[3]
EDITS = "/v1/images/edits"


class Running:
    """A process that serves.

    Attributes:
      url: its address.
      process: it.
    """

    def __init__(self, process: subprocess.Popen[str], port: int):
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def metric(self, name: str) -> float:
        """A number of its metrics."""
        text = httpx.get(f"{self.url}/metrics").text
        return float(re.search(rf"^instantid_{name} (\S+)$", text, re.MULTILINE)[1])

    def threads(self) -> int:
        return int(self._status("Threads"))

    def memory(self) -> int:
        """Bytes of anonymous memory."""
        return int(self._status("RssAnon").split()[0]) * 1024

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def until(condition, seconds: float = 60) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@contextlib.contextmanager
def running(*command: str, port: int | None = None, **options) -> Iterator[Running]:
    """Starts a server and waits until it is ready; the tests' own without a command."""
    own = (sys.executable, "-m", "tests.serving.http.fake_server", json.dumps(options))
    process = subprocess.Popen(
        command or own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if port is None:
            line = process.stdout.readline()
            assert line.strip(), process.stderr.read()
            port = int(line)
        server = Running(process, port)
        until(lambda: _is_ready(server), seconds=600)
        yield server
    finally:
        process.kill()
        process.communicate()


def _is_ready(server: Running) -> bool:
    assert server.process.poll() is None, server.process.stderr.read()
    try:
        return httpx.get(f"{server.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
