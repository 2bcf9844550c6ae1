"""A process that serves: signals, clients that leave, and crowds."""

import asyncio
import concurrent.futures
import itertools
import signal
import socket
import threading
import time

import httpx
import pytest

from instantid_jax.errors import InputError
from instantid_jax.serving import access
from instantid_jax.serving.http import run
from tests.serving.http.conftest import make_service, png
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.running import EDITS, Running, running, until

FILES = {"image": ("me.png", png())}
DATA = {"prompt": "a", "num_inference_steps": "20"}
HEAD = f"POST {EDITS} HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server():
    limits = {"idle_seconds": 1, "body_seconds": 5}
    with running(seconds=0.002, limits=limits) as server:
        yield server
        # It has outlived everything that was done to it.
        assert httpx.post(f"{server.url}{EDITS}", data=DATA, files=FILES).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def is_idle(server: Running) -> bool:
    names = ("requests_in_progress", "memory_bytes", "engine_waiting")
    return not any(server.metric(name) for name in names)


def raw(steps: int = 20) -> tuple[bytes, bytes]:
    """The head and the body of a request."""
    data = {**DATA, "num_inference_steps": str(steps)}
    request = httpx.Request("POST", "http://localhost", data=data, files=FILES)
    content = request.read()
    kind = request.headers["content-type"]
    head = f"{HEAD}Content-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode(), content


def test_sigterm_loses_nothing_that_was_begun():
    with running(seconds=0.03) as server, httpx.Client(timeout=60) as client:

        def ask(i: int) -> httpx.Response:
            data = {**DATA, "stream": "true"} if i % 2 else DATA
            return client.post(f"{server.url}{EDITS}", data=data, files=FILES)

        with concurrent.futures.ThreadPoolExecutor(10) as clients:
            asked = [clients.submit(ask, i) for i in range(10)]
            until(lambda: server.metric("requests_in_progress") == 10)
            server.process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
        assert [each.status_code for each in answers] == [200] * 10
        assert all("image_edit.completed" in each.text for each in answers[1::2])
        assert server.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_second_signal_and_a_limit_of_time_end_it():
    for options, signals in (({}, 2), ({"drain_seconds": 0.2}, 1)):
        with running(seconds=60, **options) as server:
            with concurrent.futures.ThreadPoolExecutor(1) as clients:
                asked = clients.submit(httpx.post, f"{server.url}{EDITS}", data=DATA, files=FILES)
                until(lambda: server.metric("requests_in_progress") == 1)
                for _ in range(signals):
                    server.process.send_signal(signal.SIGTERM)
                    time.sleep(0.5)
                answer = asked.result(30)
                assert answer.status_code == 503 and answer.json()["error"]["code"] == "draining"
            # The engine that draws sleeps on.
            server.process.kill()


def test_before_it_ends_it_says_that_it_is_not_ready():
    with running(drain_delay=2) as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert httpx.post(f"{server.url}{EDITS}", data=DATA, files=FILES).status_code == 200
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("stage", ["connected", "head", "body", "sent", "stream"])
def test_clients_that_leave(server, stage):
    head, content = raw(steps=150)
    for _ in range(5):
        connection = server.connect()
        if stage == "head":
            connection.sendall(head[:40])
        elif stage == "body":
            connection.sendall(head + content[: len(content) // 2])
            until(lambda: server.metric("requests_in_progress") >= 1)
        elif stage == "sent":
            connection.sendall(head + content)
            until(lambda: server.metric("requests_in_progress") >= 1)
        elif stage == "stream":
            with httpx.stream(
                "POST", f"{server.url}{EDITS}", data={**DATA, "stream": "true"}, files=FILES
            ) as response:
                next(response.iter_raw())
        connection.close()
    until(lambda: is_idle(server))


def test_connections_without_a_request_are_closed(server):
    head, content = raw()
    for begin in (b"", head[:40]):
        with server.connect() as connection:
            connection.sendall(begin)
            assert closed(connection)
    # Also after an answer.
    with server.connect() as connection:
        connection.sendall(head + content)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(head[:40])
        assert closed(connection)


def closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection."""
    try:
        while connection.recv(10**6):
            pass
    except ConnectionResetError:
        pass
    return True


def test_bodies_that_are_not_http_are_answered_once_and_not_logged():
    """Whether or not the application has answered before the damage arrives."""
    kinds = ("", "Content-Type: application/json\r\n")
    with running() as server:
        for path, kind, pause in itertools.product((EDITS, "/nothing"), kinds, (0, 0.2)):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}"
            with server.connect() as connection:
                connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                time.sleep(pause)
                connection.sendall(b"zz\r\n")
                answer = b""
                while more := connection.recv(10**6):
                    answer += more
            assert answer.count(b"HTTP/1.1 4") == 1
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=30)
        assert "Traceback" not in errors


def test_slow_bodies_are_given_up(server):
    head, content = raw()
    with server.connect() as connection:
        connection.sendall(head + content[:100])
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_clients_that_do_not_read_are_given_up(server):
    connections = []
    for _ in range(3):
        connection = socket.socket()
        # The least that the system allows: answers stay with the server.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect(("127.0.0.1", server.port))
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        # Pipelined, so that there is more than the system's buffers hold.
        sender = threading.Thread(target=flood, args=(connection, request), daemon=True)
        sender.start()
        connections.append((connection, sender))
    for connection, sender in connections:
        sender.join(60)
        assert not sender.is_alive(), "the server still takes requests"
        connection.close()
    until(lambda: is_idle(server))


def flood(connection: socket.socket, request: bytes) -> None:
    try:
        while True:
            connection.sendall(request * 100)
    except OSError:
        pass


def crowd(server: Running, count: int) -> list[int]:
    """The statuses of that many requests at a time."""

    async def ask(client: httpx.AsyncClient, i: int) -> int:
        bad = {"seed": "many"} if i % 10 == 0 else {}
        answer = await client.post(EDITS, data={**DATA, **bad}, files=FILES)
        return answer.status_code

    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(count)))

    return asyncio.run(all_of_them())


@pytest.mark.slow
def test_a_crowd_is_answered_or_refused(server):
    statuses = crowd(server, 200)
    assert {*statuses} <= {200, 400, 503} and statuses.count(200) >= 60
    until(lambda: is_idle(server))
    threads, memory = server.threads(), server.memory()
    for _ in range(2):
        crowd(server, 200)
    until(lambda: is_idle(server))
    assert server.threads() <= threads
    assert server.memory() < memory + 30 * 2**20


def test_what_keeps_sizes_from_being_compiled_ends_it(monkeypatch):
    def fail(_):
        raise InputError("height=64: the model cannot make it")

    engine = FakeEngine()
    monkeypatch.setattr(engine, "warm_up", fail)
    with pytest.raises(InputError, match="cannot make it"):
        run.serve(make_service(engine, ready=False), access.listen("127.0.0.1", 0))


def test_addresses_that_cannot_be_listened_on():
    taken = access.listen("127.0.0.1", 0)
    with taken, pytest.raises(InputError, match="in use; choose another"):
        access.listen("127.0.0.1", taken.getsockname()[1])
    for host, port in (("256.1.1.1", 0), ("127.0.0.1", 10**6), ("8.8.8.8", 0)):
        with pytest.raises(InputError, match="choose another"):
            access.listen(host, port)
