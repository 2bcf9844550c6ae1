"""Access to a server: files of tokens, and the addresses of this machine."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from instantid_jax.errors import InputError
from instantid_jax.text_files import read_utf8

SHORTEST = 16
LARGEST_PORT = 65535
# Connections that wait to be accepted.
BACKLOG = 1024


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
    if not tokens and not is_loopback(host):
        raise InputError(
            f"--host {host} without tokens lets everybody in: give --token-file, or listen on "
            "127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
      InputError: if the address does not exist or is in use.
    """
    if not 0 <= port <= LARGEST_PORT:  # The system would take the remainder.
        raise InputError(f"--port {port}: expected 0 to {LARGEST_PORT}; choose another")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else error
        raise InputError(f"--host {host} --port {port}: {reason}; choose another") from error


def is_local(host: str, origin: str | None) -> bool:
    """Whether a request is for this machine under its own name, and of its own pages.

    A browser here can reach the server; another site's page, also by a name that leads here, must
    not use it.

    Args:
      host, origin: the request's headers.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) and (not origin or origin.partition("://")[2] == host)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
