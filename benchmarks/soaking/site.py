"""The service as its clients see it."""

import base64
import dataclasses
import random
import socket
import threading
from typing import Any

import httpx

from benchmarks.soaking.rules import References
from benchmarks.soaking.server import LIMITS, Server

EDITS, GENERATIONS, FACES = "/v1/images/edits", "/v1/images/generations", "/v1/faces"
# Seconds after which an answer counts as missing: the service itself gives up before.
PATIENCE = LIMITS.seconds + 60


@dataclasses.dataclass(eq=False)
class Site:
    """The service, and what its clients share.

    Attributes:
      stopping: is set when the soak ends.
    """

    server: Server
    references: References = dataclasses.field(default_factory=References)
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Connections that wait for a second request are closed by the service at any moment.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.Client(
            base_url=self.server.url, limits=limits, timeout=PATIENCE, trust_env=False
        )

    def token(self, number: int) -> str:
        tokens = self.server.tokens
        return tokens[number % len(tokens)]

    def bearer(self, number: int) -> dict[str, str]:
        """The headers of a request with a token."""
        return {"Authorization": f"Bearer {self.token(number)}"}

    def post(self, path: str, token: int = 1, **options: Any) -> httpx.Response:
        """The answer to a request with a token; the first token is the heartbeat's."""
        return self.http.post(path, headers=self.bearer(token), **options)

    def connect(self, buffer: int | None = None) -> socket.socket:
        """A connection.

        Args:
          buffer: bytes that the system keeps of what is not read, if it can be so few.
        """
        connection = socket.socket()
        connection.settimeout(PATIENCE)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", self.server.port))
        return connection

    def raw(self, path: str = EDITS, token: int = 1, **options: Any) -> tuple[bytes, bytes]:
        """The head and the body of a request."""
        request = httpx.Request("POST", self.server.url, **options)
        body = request.read()
        kind = request.headers["content-type"]
        return self.head(path, token, f"Content-Type: {kind}", f"Content-Length: {len(body)}"), body

    def head(self, path: str, token: int, *headers: str, method: str = "POST") -> bytes:
        """The head of a request."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.server.port}",
            f"Authorization: Bearer {self.token(token)}",
            *headers,
        ]
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def fields(rng: random.Random, **others: object) -> dict[str, str]:
    """The fields of a good request as a form, without its photos."""
    chosen = {
        "prompt": "an oil painting of a calm person, wearing a green scarf, in the snow",
        "num_inference_steps": rng.randint(1, 8),
        "guidance_scale": rng.choice((1, 2, 5)),
        "seed": rng.randint(0, 2),
        **others,
    }
    return {name: str(value) for name, value in chosen.items()}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()
