"""Access to the page: for bearers of a token, or without tokens for this machine alone."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from instantid_jax.serving.access import is_local

# Nothing is loaded from elsewhere; Gradio's page has scripts and styles in itself.
HEADERS = {
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
        "form-action 'self'; base-uri 'self'; object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Parts of paths by which Gradio's server fetches addresses for its users.
FETCHING = ("/file=http:", "/file=https:", "/proxy=")
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


def login(tokens: Sequence[str]) -> Callable[[str, str], bool] | None:
    """Gradio's check of a name and a password; None without tokens.

    A token is the password of every name.
    """
    if not tokens:
        return None
    known = [token.encode() for token in tokens]

    def check(_: str, password: str) -> bool:
        # Compares with all of them, so that the time says nothing about the others.
        return any([secrets.compare_digest(token, password.encode()) for token in known])

    return check


class Guarded:
    """ASGI middleware: adds `HEADERS`, and without tokens serves browsers of this machine alone."""

    def __init__(self, app: App, *, local: bool):
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        if scope["type"] == "http":
            refusal = None
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            if self._local and not is_local(host, origin):
                refusal = "without tokens, only localhost is served under its own name"
            elif any(part in scope["path"] for part in FETCHING):
                refusal = "this page fetches nothing from elsewhere"
            if refusal is not None:
                kind = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 403, "headers": kind})
                await send({"type": "http.response.body", "body": refusal.encode()})
                return
            await self._app(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send)
