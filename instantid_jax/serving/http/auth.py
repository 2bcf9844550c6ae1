"""Authorization: bearers of a token may use the service, or without tokens this machine alone."""

import base64
import binascii
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from instantid_jax.errors import InputError
from instantid_jax.serving.http.errors import ServiceError

# Open to everybody: they say nothing but whether the server works.
OPEN = ("/healthz", "/readyz")
SHORTEST = 16


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file, one in each line; lines that begin with # are comments.

    Raises:
      InputError: if it cannot be read, or holds no token or one that is easily guessed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not tokens:
        raise InputError(f"{path} holds no token: write one in each line")
    for number, token in enumerate(tokens, 1):
        if len(token) < SHORTEST or not token.isascii() or " " in token:
            raise InputError(
                f"{path}: token {number} is shorter than {SHORTEST} characters or not plain ASCII "
                'without blanks: make one with python -c "import secrets; '
                'print(secrets.token_urlsafe(32))"'
            )
    return tokens


def check_host(host: str, tokens: Sequence[str]) -> None:
    """Refuses to listen to other machines without tokens.

    Raises:
      InputError: in that case.
    """
    if not tokens and not _is_loopback(host):
        raise InputError(
            f"--host {host} without tokens lets everybody in: give --token-file, or listen on "
            "127.0.0.1"
        )


class Authorized:
    """ASGI middleware: lets requests with a token through, or without tokens those of this machine.

    The application finds whose request it is as `scope["state"]["owner"]`.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str]):
        self._app = app
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                scope.setdefault("state", {})["owner"] = self._owner(Headers(scope=scope))
            except ServiceError as error:
                response = JSONResponse(error.to_json(), error.status, error.headers)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _owner(self, headers: Headers) -> str:
        """A name for the bearer; empty without tokens."""
        if not self._tokens:
            _check_local(headers)
            return ""
        given = _given_token(headers.get("authorization", ""))
        # Compares with all of them, so that the time says nothing about the others.
        found = [token for token in self._tokens if secrets.compare_digest(token, given)]
        if not found:
            raise ServiceError(
                401, "no valid token: send Authorization: Bearer TOKEN", code="invalid_api_key"
            )
        return hashlib.sha256(found[0]).hexdigest()


def _given_token(authorization: str) -> bytes:
    """A bearer's token, or the password of basic authorization."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return value.strip().encode() if kind.lower() == "bearer" else b""


def _check_local(headers: Headers) -> None:
    """Refuses what a web page sent, by another site's script or a name that leads here.

    The browser of somebody on this machine can reach the server; a page must not use it.
    """
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not _is_loopback(name):
        raise ServiceError(403, "without tokens, only localhost is served under its own name")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise ServiceError(403, "without tokens, other sites' pages are not served")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
