"""Kept-alive connections to one engine's Unix socket, and one in reserve. One request at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final, cast

import httptools

from runner_supervisor.front.answers import AnswerHead, Answers
from runner_supervisor.front.chunks import ends_between, is_chunk
from runner_supervisor.front.outbox import Outbox

IDLE_S: Final = 4.0
REQUESTS: Final = 99
"""llama-server closes a connection after 5 s idle or 100 requests (vendor/cpp-httplib/httplib.h:25,33)."""

HEAD_BYTES: Final = 64 * 1024

SPARE_AFTER_S: Final = 0.005
"""How long after the last idle connection has been taken another one is opened, in seconds: not in the way of the
request that took it."""

VERDICT_EVERY_S: Final = 0.02

PING_BYTES: Final = 9
"""A silent stream's sign of life, "3", ":" and a blank line, says nothing of the engine's main loop
(tools/server/server-context.cpp).
"""

LAST_PIECES: Final = 4
"""An answer's last event, [DONE] and the last chunk may come in pieces of their own."""

EDGE_BYTES: Final = 1024
"""How much is kept of the first piece, and of each of the last ones."""


class Exchange(ABC):
    """Who gets the answer to one request.

    Attributes:
        on_data: takes bytes of the answer's body, framed as the engine framed them, once the head was told.
    """

    on_data: Callable[[bytes], None]

    @property
    @abstractmethod
    def takes_slot(self) -> bool:
        """Whether the engine needs a slot for it."""

    @abstractmethod
    def on_head(self, head: AnswerHead, body: bytes) -> None:
        """The answer's head, and as much of the body as came with it."""

    @abstractmethod
    def on_end(self) -> None:
        """The answer is complete. The connection is the exchange's no longer than this call, if as long."""

    @abstractmethod
    def on_lost(self, *, stale: bool) -> None:
        """The connection broke first. `stale`: it was an old one, on which nothing had come back."""


class Connection:
    """One connection: writes a request, cuts the answer's head off, passes the rest on as it is.

    httptools follows the framing to find the end; since the class has no `on_body`, a body costs it no Python call.
    Whole chunks, which change nothing for it, are kept from it. A new connection has its first request written before
    the loop knows it: `rest` is what the kernel did not take of that. One without a request is idle from its
    beginning. asyncio's `Protocol` in all but name: a compiled class has no base that is not.

    Attributes:
        pieces: how many reads of an answer's body brought more than a ping; `size`: the bytes of the body so far.
        first: the beginning of the first of them, and `first_s`, when it came on `perf_counter`'s clock; 0: not yet.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._requests = 0
        self._waited = False
        self.paused = False
        self._aborted = False
        self._reusable = False
        self._between = False  # the parser has seen whole chunks, and not the last one
        self._ends = [b""] * LAST_PIECES  # of the latest reads, each in its turn
        self._reads = 0
        self.rest: list[bytes] = []
        self._begin(None, head_only=False)

    def _begin(self, exchange: Exchange | None, *, head_only: bool) -> None:
        self._exchange = exchange
        self._head = b""
        if self._reads:
            self._ends = [b""] * LAST_PIECES
            self._reads = 0
        self.first = b""
        self.first_s = 0.0
        self.pieces = self.size = 0
        self._head_begun = self._head_read = self._head_passed = self._between = self._complete = False
        self._head_only = head_only

    def open(self, exchange: Exchange, *, head_only: bool) -> None:
        """Take the answer to the first request, which is on its way already."""
        self._begin(exchange, head_only=head_only)
        self._requests = 1

    def send(self, request: list[bytes], exchange: Exchange, *, head_only: bool) -> None:
        """Write one more request. `head_only`: its answer has no body whatever its headers say (HEAD)."""
        self._begin(exchange, head_only=head_only)
        self._requests += 1
        self._waited = True
        transport = cast("asyncio.Transport", self._transport)
        if len(request) == 1:
            self._upstream.outbox.write(transport, request[0])
        else:
            transport.writelines(request)

    def abort(self) -> None:
        """Break the connection off: the engine notices at once and stops working on the request."""
        self._upstream.end_work(self)
        self._exchange = None
        self._aborted = True
        if self._transport:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Take no more from the engine until `resume_reading`."""
        self.paused = True
        if self._transport and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking from the engine."""
        self.paused = False
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def owes(self) -> bool:
        """Whether the engine is to blame if nothing comes: its work takes a slot, and the client reads."""
        return self._exchange is not None and self._exchange.takes_slot and not self.paused

    @property
    def received(self) -> int:
        """How many reads brought more than a ping: the head, and pieces of the body."""
        return self.pieces + self._head_passed

    @property
    def last(self) -> list[bytes]:
        """The ends of the pieces that came last."""
        at = self._reads % LAST_PIECES
        return self._ends[at:] + self._ends[:at]

    @property
    def usable(self) -> bool:
        """Whether the engine still has it open."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._aborted:
            self._transport.abort()
            return
        if self._exchange is None:
            self._upstream.release(self)
        elif self.rest:
            self._transport.writelines(self.rest)
            self.rest = []

    def pause_writing(self) -> None:
        """The engine reads slowly. What it has yet to get is held in memory one way or the other."""

    def resume_writing(self) -> None:
        """The engine has caught up."""

    def eof_received(self) -> None:
        """The engine sends no more: the connection closes."""

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # bytes nobody asked for
            self.abort()
            return
        if not self._head_begun:
            self._head_begun = True
            if not self._head_only and (answer := self._upstream.answers.whole(data)):
                self._pass_whole(data, exchange, *answer)
                return
        if not (self._between and is_chunk(data)):
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                self._break_off()
                return
            self._between = self._between and not self._complete and ends_between(data)
        if self._head_passed:
            size = len(data)
            if self.pieces and PING_BYTES < size <= EDGE_BYTES:  # as nearly all of a stream's, so without a call
                self.size += size
                self.pieces += 1
                self._ends[self._reads % LAST_PIECES] = data
                self._reads += 1
            else:
                self._note(data)
            exchange.on_data(data)
        else:
            self._pass_head(data, exchange)
        if self._complete:
            self._end(exchange)

    def _note(self, data: bytes) -> None:
        size = len(data)
        self.size += size
        if size > PING_BYTES:
            if not self.pieces:
                self.first = data[:EDGE_BYTES]
                self.first_s = perf_counter()
            self.pieces += 1
        self._ends[self._reads % LAST_PIECES] = data if size <= EDGE_BYTES else data[-EDGE_BYTES:]
        self._reads += 1

    def _pass_whole(self, data: bytes, exchange: Exchange, head: AnswerHead, start: int) -> None:
        """All of an answer that was known before it was parsed."""
        self._head_passed = self._reusable = True
        body = data[start:]
        self._note(body)
        exchange.on_head(head, body)
        self._end(exchange)

    def _pass_head(self, data: bytes, exchange: Exchange) -> None:
        head = self._head + data
        if not self._head_read:
            self._head = head
            if len(head) > HEAD_BYTES:
                self._break_off()
            return
        cut = head.index(b"\r\n\r\n") + 4
        self._head = b""
        body = head[cut:]
        if body:
            self._note(body)
        self._head_passed = True
        if self._head_only:
            self._complete = True
        answer = self._upstream.answers.read(self._parser.get_status_code(), head[:cut])
        self._between = answer.chunked and not self._complete and ends_between(body)
        exchange.on_head(answer, body)

    def _end(self, exchange: Exchange) -> None:
        if self._exchange is not exchange:  # it broke off while it was told
            return
        self._exchange = None
        self._upstream.end_work(self)
        if self.paused:  # the last write of an answer may have filled a slow client's buffer
            self.resume_reading()
        if self._reusable and not self._head_only and self._requests < REQUESTS:
            self._upstream.release(self)
        else:
            cast("asyncio.Transport", self._transport).close()
        try:
            exchange.on_end()
        except BaseException:  # it is not ours any more, so `connection_lost` could not tell it
            exchange.on_lost(stale=False)
            raise

    def _break_off(self) -> None:
        """The engine does not speak HTTP: `connection_lost` tells the exchange."""
        cast("asyncio.Transport", self._transport).abort()

    def on_headers_complete(self) -> None:
        """httptools: the head is in."""
        self._head_read = True

    def on_message_complete(self) -> None:
        """httptools: the whole answer is in. Only now does the parser know whether the connection stays."""
        self._complete = True
        self._reusable = self._parser.should_keep_alive()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._upstream.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_lost(stale=self._waited and not self._head_begun)


class Upstream:
    """The connections to one generation of the engine.

    Attributes:
        lost: nobody listens there any more, or soon nobody will.
        ended: how the engine ended, "signal 9" say; "" where it was told to end; None while that is not known.
    """

    def __init__(self, path: Path, outbox: Outbox) -> None:
        self.outbox = outbox
        self.answers = Answers()
        self._path = str(path)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Connection, float] = {}
        self._opening: set[asyncio.Task[object]] = set()
        self._at_work: set[Connection] = set()
        self._quiet = asyncio.Event()
        self._drains = False
        self._closed = False
        self._opens_spare = False
        self.lost = False
        self.ended: str | None = None
        self._received = 0

    @property
    def received(self) -> int:
        """How many reads brought more than a ping, of all answers: a sign that the engine gets on."""
        return self._received + sum(connection.received for connection in self._at_work)

    @property
    def owed(self) -> int:
        """How many requests for work that takes a slot wait for more of their answers, and would take it."""
        return sum(connection.owes for connection in self._at_work)

    async def drained(self, timeout_s: float) -> int:
        """Wait until no request is at work on it.

        Args:
            timeout_s: how long at most, in seconds.

        Returns:
            How many still are.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._drains = True
                while self._at_work:
                    self._quiet.clear()
                    await self._quiet.wait()
        return len(self._at_work)

    def send(self, request: list[bytes], exchange: Exchange, *, head_only: bool) -> Connection:
        """Send a request on the connection used last that the engine has not given up yet, else on a new one.

        Raises:
            OSError: see `send_on_new`.
        """
        deadline = self._loop.time() - IDLE_S
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.usable and since > deadline:
                self._at_work.add(connection)
                connection.send(request, exchange, head_only=head_only)
                break
            connection.abort()
        else:
            connection = self.send_on_new(request, exchange, head_only=head_only)
        if not (self._idle or self._opens_spare):
            self._opens_spare = True
            self._loop.call_later(SPARE_AFTER_S, self._open_spare)
        return connection

    def send_on_new(self, request: list[bytes], exchange: Exchange, *, head_only: bool) -> Connection:
        """Connect and send at once: on a Unix socket neither has to wait. The loop takes over for the answer.

        Raises:
            BlockingIOError: the engine's backlog is full at the moment.
            OSError: nobody listens there.
        """
        connecting = self._connect()
        try:
            sent = connecting.send(request[0])
        except OSError:
            connecting.close()
            raise
        connection = Connection(self)
        connection.rest = request[1:] if sent == len(request[0]) else [request[0][sent:], *request[1:]]
        connection.open(exchange, head_only=head_only)
        self._at_work.add(connection)
        self._hand_over(connection, connecting)
        return connection

    def _open_spare(self) -> None:
        """Open a connection before there is a request for it, which then need not wait for it."""
        self._opens_spare = False
        if self._idle or self._closed:
            return
        try:
            connecting = self._connect()
        except OSError:  # a request will find out why
            return
        self._hand_over(Connection(self), connecting)

    def _connect(self) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connecting.setblocking(False)
        try:
            connecting.connect(self._path)
        except OSError:
            connecting.close()
            raise
        return connecting

    def _hand_over(self, connection: Connection, connected: socket.socket) -> None:
        task = self._loop.create_task(self._attach(connection, connected))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _attach(self, connection: Connection, connected: socket.socket) -> None:
        try:
            transport, _ = await self._loop.create_unix_connection(
                lambda: cast("asyncio.Protocol", connection), sock=connected
            )
        except OSError:
            connection.connection_lost(None)
            return
        if transport.is_closing():
            # It was broken off before uvloop had noted the socket, and so is closed, but the socket does not know:
            # it would close the same number again some time, and by then that may be somebody else's.
            connected.detach()
        elif connection.paused:  # uvloop begins to read after `connection_made`, whatever that says
            transport.pause_reading()

    def release(self, connection: Connection) -> None:
        """Give a connection back for the next request."""
        if self._closed:
            connection.abort()
        else:
            self._idle[connection] = self._loop.time()

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self._idle.pop(connection, None)
        self.end_work(connection)

    def end_work(self, connection: Connection) -> None:
        """A connection's request has its answer, or never will."""
        if connection not in self._at_work:
            return
        self._at_work.remove(connection)
        self._received += connection.received
        if self._drains and not self._at_work:
            self._quiet.set()

    def close(self) -> None:
        """Close the idle connections; those at work close when they are done."""
        self._closed = True
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    def lose(self, ended: str | None = None) -> None:
        """The engine is going or gone; `ended`, if it is known, says how."""
        self.lost = True
        self.ended = self.ended if ended is None else ended
        self.close()

    def when_ended(self, act: Callable[[], None], *, within_s: float) -> None:
        """Act once it is known how the engine ended, or when time is up, in seconds.

        A dying process closes its connections some moments before anyone can know that it is dead.
        """
        if self.ended is None and within_s > 0:
            again = partial(self.when_ended, act, within_s=within_s - VERDICT_EVERY_S)
            self._loop.call_later(VERDICT_EVERY_S, again)
        else:
            act()
