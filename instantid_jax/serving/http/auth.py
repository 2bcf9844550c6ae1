"""Authorization: bearers of a token may use the service, or without tokens this machine alone."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from instantid_jax.serving.access import is_local
from instantid_jax.serving.http.errors import ServiceError

# Open to everybody: they say nothing but whether the server works.
OPEN = ("/healthz", "/readyz")


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
            if not is_local(headers.get("host", ""), headers.get("origin")):
                raise ServiceError(
                    403,
                    "without tokens, only localhost is served, under its own name and to its own "
                    "pages",
                )
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
