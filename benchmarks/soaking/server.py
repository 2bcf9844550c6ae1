"""The service under test: a process of its own, and its memory, threads and files."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from instantid_jax.serving.http.limits import Limits

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "instantid_jax" / "embedded"
# For compiling with a cold cache on a busy machine, in seconds.
STARTING = 1800
# Small, so that clients reach them all.
LIMITS = Limits(
    body_bytes=4 * 2**20,
    memory_bytes=64 * 2**20,
    body_seconds=10.0,
    idle_seconds=10.0,
    photos=4,
    pixels=1_000_000,
    images=4,
    steps=50,
    characters=2000,
    requests=28,
    requests_per_token=8,
    seconds=90.0,
    faces=64,
    face_seconds=120.0,
)
WAITING = 16
SIDE = 64
ROWS = (1, 2, 4)
COMMAND = "from instantid_jax.cli import main; main()"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Numbers of a process at a moment.

    Attributes:
      seconds: since the beginning.
      memory: bytes of anonymous memory.
      threads: how many.
      files: open file descriptors.
    """

    seconds: float
    memory: int
    threads: int
    files: int


class Server:
    """A process that serves.

    Attributes:
      process: it.
      port: its port on 127.0.0.1.
      tokens: that it accepts.
      log: the file with what it writes.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, tokens: list[str], log: Path
    ) -> None:
        self.process = process
        self.port = port
        self.tokens = tokens
        self.log = log
        self.started = time.monotonic()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metrics(self) -> dict[str, float]:
        """Its own numbers, by names without labels."""
        answer = httpx.get(
            f"{self.url}/metrics",
            headers={"Authorization": f"Bearer {self.tokens[0]}"},
            timeout=60,
            trust_env=False,
        )
        found = re.findall(r"^instantid_(\w+) (\S+)$", answer.text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def sample(self) -> Sample:
        """The process at this moment."""
        folder = Path("/proc") / str(self.process.pid)
        status = dict(re.findall(r"^(\w+):\s*(\d+)", (folder / "status").read_text(), re.MULTILINE))
        return Sample(
            round(time.monotonic() - self.started, 1),
            int(status["RssAnon"]) * 1024,
            int(status["Threads"]),
            len(os.listdir(folder / "fd")),
        )

    def complaints(self) -> list[str]:
        """Lines of the log that only a fault writes."""
        lines = self.log.read_text(errors="replace").splitlines()
        faults = re.compile(r"Traceback|[Ee]xception|rror\b|failed|never retrieved|Warning")
        return [line for line in lines if faults.search(line)]


@contextlib.contextmanager
def serving(tokens: list[str]) -> Iterator[Server]:
    """Starts `instantid serve` with the embedded model on the CPU, and waits until it is ready.

    It is ended with the block.

    Raises:
      RuntimeError: if it ends by itself or does not become ready.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "tokens", Path(folder) / "log"
        file.write_text("\n".join(tokens))
        port = _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(port, file),
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=output,
                stderr=subprocess.STDOUT,
                # An interrupt at the keyboard is for this process alone.
                start_new_session=True,
            )
        try:
            server = Server(process, port, tokens, log)
            _wait_until_ready(server)
            yield server
        finally:
            process.kill()
            process.wait()


def flags(port: int | str, tokens: Path | str) -> list[str]:
    """The arguments of `instantid serve`."""
    values = {name.replace("_", "-"): value for name, value in dataclasses.asdict(LIMITS).items()}
    limits = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return [
        *("--port", str(port), "--token-file", str(tokens)),
        *("--sizes", str(SIDE), str(SIDE), "--rows", *map(str, ROWS), "--waiting", str(WAITING)),
        *("--face", str((EMBEDDED / "portrait.png").relative_to(ROOT)), *limits),
    ]


def _command(port: int, tokens: Path) -> list[str]:
    return [sys.executable, "-c", COMMAND, "serve", *flags(port, tokens)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    log = server.log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the service did not become ready: {log}")


def stop(server: Server, seconds: float) -> int | None:
    """Waits for the end of a process that was sent SIGTERM; None if it does not come."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return server.process.wait(seconds)
    server.process.send_signal(signal.SIGKILL)
    return None
