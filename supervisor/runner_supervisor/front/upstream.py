"""Kept-alive connections to one engine's Unix socket. One request at a time on each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol, cast

import httptools

IDLE_S = 4.0
REQUESTS = 99
"""llama-server closes a connection after 5 s idle or 100 requests (vendor/cpp-httplib/httplib.h:25,33)."""

CONNECT_S = 5.0
HEAD_BYTES = 64 * 1024


class Exchange(Protocol):
    """Who gets the answer to one request."""

    def on_head(self, status: int, head: bytes, body: bytes) -> None:
        """The answer's head (status line, headers, the blank line) and as much of the body as came with it."""

    def on_data(self, data: bytes) -> None:
        """Bytes of the answer's body, framed as the engine framed them."""

    def on_end(self) -> None:
        """The answer is complete. The connection is no longer the exchange's."""

    def on_lost(self, *, stale: bool) -> None:
        """The connection broke first. `stale`: it was an old one on which nothing had come back."""


class Connection(asyncio.Protocol):
    """One connection: writes a request, cuts the answer's head off, passes the rest on as it is.

    httptools follows the framing to find the end; since the class has no `on_body`, a body costs it no
    Python call.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._exchange: Exchange | None = None
        self._requests = 0
        self._paused = False
        self._start(head_only=False)

    def _start(self, *, head_only: bool) -> None:
        self._head = b""
        self._head_done = False
        self._head_sent = False
        self._complete = False
        self._reusable = False
        self._head_only = head_only
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, exchange: Exchange, *, head_only: bool) -> None:
        """Write one request. `head_only`: its answer has no body whatever its headers say (HEAD)."""
        self._start(head_only=head_only)
        self._exchange = exchange
        self._requests += 1
        self._transport.write(request)

    def abort(self) -> None:
        """Break the connection off: the engine notices at once and stops working on the request."""
        self._exchange = None
        self._transport.abort()

    def pause_reading(self) -> None:
        """Take no more from the engine until `resume_reading`."""
        self._paused = True
        if self.usable:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking from the engine."""
        self._paused = False
        if self.usable:
            self._transport.resume_reading()

    @property
    def usable(self) -> bool:
        """Whether the engine still has it open."""
        return not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # bytes nobody asked for
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
            return
        if self._head_sent:
            exchange.on_data(data)
        else:
            self._pass_head(data, exchange)
        if self._complete:
            self._end(exchange)

    def _pass_head(self, data: bytes, exchange: Exchange) -> None:
        self._head += data
        if not self._head_done:
            if len(self._head) > HEAD_BYTES:
                self._transport.abort()
            return
        cut = self._head.index(b"\r\n\r\n") + 4
        head, body, self._head = self._head[:cut], self._head[cut:], b""
        self._head_sent = True
        if self._head_only:
            self._complete = True
        exchange.on_head(self._parser.get_status_code(), head, body)

    def _end(self, exchange: Exchange) -> None:
        if self._exchange is not exchange:  # it broke off while it was told
            return
        self._exchange = None
        if self._paused:  # the last write of an answer may have filled a slow client's buffer
            self.resume_reading()
        if self._reusable and self._requests < REQUESTS:
            self._upstream.release(self)
        else:
            self._transport.close()
        exchange.on_end()

    def on_headers_complete(self) -> None:
        """httptools: the head is in."""
        self._head_done = True

    def on_message_complete(self) -> None:
        """httptools: the whole answer is in. Only now does the parser know whether the connection stays."""
        self._complete = True
        self._reusable = self._parser.should_keep_alive() and not self._head_only

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._upstream.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_lost(stale=self._requests > 1 and not self._head and not self._head_sent)


class Upstream:
    """The connections to one generation of the engine."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Connection, float] = {}
        self._closed = False

    def take(self) -> Connection | None:
        """An idle connection that the engine has not given up yet, the most recently used first."""
        now = self._loop.time()
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.usable and now - since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            OSError: the engine does not take it, or not within five seconds (TimeoutError).
        """
        async with asyncio.timeout(CONNECT_S):
            _, connection = await self._loop.create_unix_connection(lambda: Connection(self), str(self._socket))
        return connection

    def release(self, connection: Connection) -> None:
        """Give a connection back for the next request."""
        if self._closed:
            connection.abort()
        else:
            self._idle[connection] = self._loop.time()

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Close the idle connections; those at work close when they are done."""
        self._closed = True
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()
