"""Connections that are closed when their client neither sends a request nor reads an answer."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with limits where it waits forever.

    uvicorn closes a connection that is idle after an answer, but not one whose first request never
    comes, whose headers come byte by byte, or whose client does not read.
    """

    idle_seconds = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        super().connection_made(transport)
        self._waited_since: object = None
        self._unread = 0
        self._check = self.loop.call_later(self.idle_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._check.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, and ends the connection.

        An answer that has begun cannot be followed by this one, and the application, which may not
        have read that far, must not answer after it.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self) -> None:
        """Ends the connection if nothing has moved since the last look."""
        unread = self.transport.get_write_buffer_size()
        # The request after whose answer it waits for another; before the first, the protocol.
        since = None
        if not unread and (self.cycle is None or self.cycle.response_complete):
            since = self.cycle or self
        stuck = unread >= self._unread > 0
        idle = since is not None and since is self._waited_since
        if stuck or idle:
            # Closing would wait for the client to read.
            self.transport.abort()
            return
        self._unread, self._waited_since = unread, since
        self._check = self.loop.call_later(self.idle_seconds, self._look)
