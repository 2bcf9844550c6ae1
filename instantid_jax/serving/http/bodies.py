"""ASGI middleware: bodies of limited size, that arrive in limited time, and no caching."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instantid_jax.serving.http.errors import ServiceError
from instantid_jax.serving.http.limits import Budget, Lease, Limits

PRIVATE = (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")
ENDING = ServiceError(503, "the server is shutting down", code="draining", retry_after=10)


class LimitedBodies:
    """Refuses bodies that are too large, too slow, or too many at a time.

    The application finds the request's `Lease` of memory as `scope["state"]["lease"]`.
    """

    def __init__(self, app: ASGIApp, limits: Limits, budget: Budget):
        self._app = app
        self._limits = limits
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lease = self._budget.lease()
        scope.setdefault("state", {})["lease"] = lease
        answer = _Answer(send)
        try:
            self._check_length(scope)
            await self._app(scope, self._limited(receive, lease), answer)
        except ServiceError as error:
            await answer.refuse(scope, receive, error)
        except asyncio.CancelledError:
            # The server's time to finish is over.
            await answer.refuse(scope, receive, ENDING)
            raise
        finally:
            lease.release()

    def _check_length(self, scope: Scope) -> None:
        """Refuses a body whose header says that it is too large, before any of it is read."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> ServiceError:
        most = self._limits.body_bytes
        return ServiceError(413, f"the body is larger than {most:,} bytes: send smaller files")

    def _limited(self, receive: Receive, lease: Lease) -> Callable[[], Awaitable[Any]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.body_seconds
        complete = False
        count = 0

        async def limited() -> Message:
            nonlocal complete, count
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self._limits.body_seconds
                raise ServiceError(
                    408, f"the body took longer than {seconds:g} seconds: send it faster"
                ) from None
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            size = len(message.get("body", b""))
            count += size
            if count > self._limits.body_bytes:
                raise self._too_large()
            lease.take(size)
            return message

        return limited


class _Answer:
    """Sends an answer, with headers that keep it out of caches."""

    def __init__(self, send: Send):
        self._send = send
        self._started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            own = {name for name, _ in PRIVATE}
            others = [(k, v) for k, v in message.get("headers", []) if k.lower() not in own]
            message = {**message, "headers": [*others, *PRIVATE]}
        await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive, error: ServiceError) -> None:
        """Sends an error, unless something was sent before."""
        if not self._started:
            response = JSONResponse(error.to_json(), error.status, error.headers)
            await response(scope, receive, self)
