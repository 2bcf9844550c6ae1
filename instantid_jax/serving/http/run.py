"""Runs a service: listens, compiles, and on SIGTERM finishes what was begun."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence

import uvicorn

from instantid_jax.serving.http import app
from instantid_jax.serving.http.connections import TimedProtocol
from instantid_jax.serving.http.service import Service

logger = logging.getLogger(__name__)

# Connections at a time; each request needs one, and so do clients that only ask how things are.
CONNECTIONS = 1024
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """uvicorn without its handlers of signals, after which it would end by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore
        yield


def serve(
    service: Service,
    listening: socket.socket,
    *,
    tokens: Sequence[str] = (),
    drain_seconds: float = 120.0,
    drain_delay: float = 0.0,
) -> None:
    """Serves until SIGTERM or an interrupt, in the main thread.

    Args:
      drain_seconds: how long requests that were begun may take then.
      drain_delay: how long to listen on first, as load balancers need that look at /readyz.
    Raises:
      Exception: whatever kept the sizes from being compiled.
    """
    protocol = type("Protocol", (TimedProtocol,), {"idle_seconds": service.limits.idle_seconds})
    config = uvicorn.Config(
        app.build(service, tokens),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=drain_seconds,  # pyright: ignore
    )
    # Its lines say what ours say.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # The answer to a damaged form says enough.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        asyncio.run(_run(service, _Server(config), listening, drain_delay))
    finally:
        service.close()
        # Requests that took too long were canceled: nothing is left to wait for.
        service.engine.close()


async def _run(
    service: Service, server: uvicorn.Server, listening: socket.socket, drain_delay: float
) -> None:
    loop = asyncio.get_running_loop()
    failed: list[BaseException] = []

    def drain() -> None:
        if service.draining:
            logger.warning("a second signal: ending at once")
            server.force_exit = server.should_exit = True
            return
        logger.info("finishing %d requests", service.admission.count)
        service.draining = True
        loop.call_later(drain_delay, setattr, server, "should_exit", True)

    def warmed(error: BaseException | None) -> None:
        if error is None:
            service.ready = True
            logger.info("ready")
        else:
            failed.append(error)
            server.should_exit = True

    def warm() -> None:
        error = None
        try:
            service.engine.warm_up(service.sizes.compiled)
            service.engine.__enter__()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # The server has ended meanwhile.
            loop.call_soon_threadsafe(warmed, error)

    for number in SIGNALS:
        loop.add_signal_handler(number, drain)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logger.info("listening on http://%s:%d, compiling %s", shown, port, service.sizes)
    # Compiling cannot be interrupted, so the thread must not keep the process alive.
    threading.Thread(target=warm, name="instantid-warmup", daemon=True).start()
    try:
        await server.serve(sockets=[listening])
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    if failed:
        raise failed[0]
