"""Clients that are wrong below their requests: too slow, too much, not HTTP, or gone too soon."""

import contextlib
import random
import re
import socket
import struct
import time
from collections.abc import Callable

from benchmarks.soaking.good import PORTRAIT, check_events
from benchmarks.soaking.rules import Violation, read_events
from benchmarks.soaking.server import LIMITS
from benchmarks.soaking.site import EDITS, Site, fields

# Seconds until a connection that does nothing is closed, seen at every second look at the latest,
# and for a machine that has more to do.
CLOSED = 3 * LIMITS.idle_seconds + 30
# Bytes of a slow client at a time.
DROPS = 64


def silent(site: Site, rng: random.Random) -> str:
    """Nothing, or the beginning of a request, and then silence."""
    head, _ = _edit(site, rng)
    sent = rng.choice((b"", head[: rng.randint(1, len(head) - 1)]))
    with site.connect() as connection:
        connection.sendall(sent)
        return _expect(read_to_end(connection), {408}, "closed")


def slow_head(site: Site, rng: random.Random) -> str:
    """A head that comes byte by byte, and never ends."""
    head, _ = _edit(site, rng)
    end = time.monotonic() + CLOSED
    with site.connect() as connection:
        with contextlib.suppress(ConnectionError):
            for i in range(10**6):
                connection.sendall(head[i : i + 1] if i < len(head) - 2 else b"a")
                if time.monotonic() > end:
                    raise Violation("a head may come for ever")
                time.sleep(0.1)
        return "closed"


def slow_body(site: Site, rng: random.Random) -> str:
    """A body that stops, or comes drop by drop."""
    head, body = _edit(site, rng)
    waits = rng.random() < 0.5
    end = time.monotonic() + LIMITS.body_seconds + CLOSED
    with site.connect() as connection:
        connection.sendall(head + body[: rng.randint(0, 500)])
        connection.settimeout(0.2)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                if not waits:
                    connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    if not (more := connection.recv(2**16)):
                        break
                    answer += more
            else:
                raise Violation("a body may come for ever")
        # The first drops may show that it is not a form.
        return _expect(answer, {400, 408, 429, 503}, "closed")


def slow_reader(site: Site, rng: random.Random) -> str:
    """Reads a stream in drops: it arrives whole, or the connection is closed."""
    head, body = _edit(site, rng, stream="true", partial_images=2)
    with site.connect(buffer=1) as connection:
        connection.sendall(head + body)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(DROPS):
                answer += more
                time.sleep(0.001)
    status = _expect(answer, {200, 429, 503}, "closed")
    if status != "200" or not answer.endswith(b"0\r\n\r\n"):
        return status if status != "200" else "closed"
    lines = _without_chunks(answer).decode().splitlines()
    return check_events(read_events(lines), 2)


def no_reader(site: Site, rng: random.Random) -> str:
    """Sends request after request, and reads no answer."""
    request = site.head("/openapi.json", 1, method="GET")
    end = time.monotonic() + CLOSED + 30
    with site.connect(buffer=1) as connection:
        connection.settimeout(1)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    connection.send(request * 20)
            raise Violation("answers are kept for ever")
        return "closed"


def not_http(site: Site, rng: random.Random) -> str:
    """Heads that are too long, too many, or something else."""
    good = site.head("/v1/models", 1, method="GET")
    length = len(PORTRAIT)
    sent = rng.choice(
        (
            rng.randbytes(rng.randint(1, 3000)) + b"\r\n\r\n",
            # The beginning of TLS.
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
            good[:-2] + b"".join(b"X-%d: a\r\n" % i for i in range(20_000)) + b"\r\n",
            good[:-2] + b"X: " + b"a" * 500_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            site.head(EDITS, 1, "Content-Length: -1"),
            site.head(EDITS, 1, "Content-Length: 5", "Content-Length: 6"),
            site.head(EDITS, 1, "Content-Length: " + "9" * 400, "Content-Type: application/json"),
            site.head(EDITS, 1, "Transfer-Encoding: gzip"),
            site.head(EDITS, 1, f"Content-Length: {length}", "Transfer-Encoding: chunked")
            + b"zz\r\n",
            site.head(EDITS, 1, "Transfer-Encoding: chunked", "Content-Type: application/json")
            + b"fffffffffffffffffff\r\n",
            site.head("/v1/models", 1, "Upgrade: websocket", "Connection: Upgrade", method="GET"),
            site.head("/v1/models", 1, "Expect: 100-continue", method="GET") * 50,
            site.head("/v1/models", 1, "Host: b", method="GET"),
        )
    )
    with site.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        answer = read_to_end(connection)
    return _expect(answer, {200, 400, 401, 408, 413, 415, 429, 501, 503}, "closed")


def leaver(site: Site, rng: random.Random) -> str:
    """Leaves at a random stage of its request, politely or not."""
    stage = rng.choice(("connected", "head", "body", "sent", "waiting", "stream", "half", "answer"))
    streams = stage in ("stream", "half")
    options = {"stream": "true", "partial_images": 2} if streams else {}
    head, body = _edit(site, rng, n=rng.randint(1, 3), **options)
    with site.connect() as connection:
        with contextlib.suppress(ConnectionError):
            if stage == "head":
                connection.sendall(head[: rng.randint(1, len(head) - 1)])
            elif stage == "body":
                connection.sendall(head + body[: rng.randint(0, len(body) - 1)])
                time.sleep(rng.uniform(0, 0.5))
            elif stage != "connected":
                connection.sendall(head + body)
            if stage == "waiting":
                time.sleep(rng.uniform(0, 3))
            elif streams or stage == "answer":
                connection.recv(1000)
            if stage == "half":
                connection.recv(rng.randint(1, 20_000))
        if rng.random() < 0.5:
            # A reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return stage


def half_closed(site: Site, rng: random.Random) -> str:
    """Ends its own half of the connection after its request, and reads on."""
    head, body = _edit(site, rng)
    with site.connect() as connection:
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        return _expect(read_to_end(connection), {200, 429, 503}, "closed")


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the service ends the connection.

    Raises:
      Violation: if it does not.
    """
    answer, end = b"", time.monotonic() + CLOSED + LIMITS.seconds
    connection.settimeout(CLOSED)
    try:
        while more := connection.recv(2**16):
            answer += more
            if time.monotonic() > end:
                raise Violation("a connection is never closed")
    except TimeoutError as error:
        raise Violation(f"a connection is not closed after {answer[:100]!r}") from error
    except ConnectionError:
        pass
    return answer


def _expect(answer: bytes, allowed: set[int], otherwise: str) -> str:
    """The last status of what came on a connection, or `otherwise` if nothing did."""
    statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]
    if not {*statuses} <= allowed | {100}:
        raise Violation(f"statuses {statuses}, expected {sorted(allowed)}: {answer[:300]!r}")
    return str(statuses[-1]) if statuses else otherwise


def _edit(site: Site, rng: random.Random, **others: object) -> tuple[bytes, bytes]:
    """The head and the body of a good request."""
    return site.raw(EDITS, 1, data=fields(rng, **others), files={"image": PORTRAIT})


def _without_chunks(answer: bytes) -> bytes:
    """The body of an answer that was sent in chunks."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(parts)


KINDS: tuple[Callable[[Site, random.Random], str], ...] = (
    silent,
    slow_head,
    slow_body,
    slow_reader,
    no_reader,
    not_http,
    leaver,
    half_closed,
)
