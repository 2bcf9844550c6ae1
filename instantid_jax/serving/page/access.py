"""Access to the page: for bearers of a token, or without tokens for this machine alone."""

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from instantid_jax.errors import InputError
from instantid_jax.text_files import read_utf8

SHORTEST = 16
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


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file, one in each line; lines that begin with # are comments.

    Raises:
      InputError: if it cannot be read, or holds no token or one that is easily guessed.
    """
    lines = [line.strip() for line in read_utf8(path).splitlines()]
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise InputError(f"{path} holds no token: write one in each line")
    for number, token in enumerate(tokens, 1):
        if len(token) < SHORTEST:
            raise InputError(
                f"{path}: token {number} is shorter than {SHORTEST} characters: make one with "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
    return tokens


def check_host(host: str, tokens: Sequence[str]) -> None:
    """Refuses to listen to other machines without tokens.

    Raises:
      InputError: in that case.
    """
    if not tokens and not is_loopback(host):
        raise InputError(
            f"--host {host} without tokens lets everybody in: give --token-file, or listen on "
            "127.0.0.1"
        )


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
    """ASGI middleware: adds `HEADERS`, and without tokens serves browsers of this machine alone.

    The browser of somebody on this machine can reach the server; another site's page, also by a
    name that leads here, must not use it.
    """

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
            if self._local and not _is_local(dict(scope["headers"])):
                refusal = "without tokens, only localhost is served under its own name"
            elif any(part in scope["path"] for part in FETCHING):
                refusal = "this page fetches nothing from elsewhere"
            if refusal is not None:
                headers = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 403, "headers": headers})
                await send({"type": "http.response.body", "body": refusal.encode()})
                return
            await self._app(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send)


def _is_local(headers: dict[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    origin = headers.get(b"origin", b"").decode("latin-1")
    return is_loopback(name) and (not origin or origin.partition("://")[2] == host)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
