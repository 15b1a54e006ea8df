"""One kept-alive connection to the engine: a request goes out, its answer's head is cut off, the rest passes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import Final, cast

import httptools

from runner_supervisor.front.answers import AnswerHead, Answers
from runner_supervisor.front.chunks import ends_between, is_chunk
from runner_supervisor.front.outbox import Outbox

REQUESTS: Final = 99
"""llama-server closes a connection after 100 requests (vendor/cpp-httplib/httplib.h:33)."""

HEAD_BYTES: Final = 64 * 1024

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


class Pool(ABC):
    """Whom connections belong to: those to one generation of the engine. `answers`: reads their answers' heads."""

    outbox: Outbox
    answers: Answers

    @abstractmethod
    def release(self, connection: Connection) -> None:
        """Give a connection back for the next request."""

    @abstractmethod
    def end_work(self, connection: Connection) -> None:
        """A connection's request has its answer, or never will."""

    @abstractmethod
    def forget(self, connection: Connection) -> None:
        """A connection has closed."""


class Connection:
    """One connection: writes a request, cuts the answer's head off, passes the rest on as it is.

    httptools follows the framing to find the end; since the class has no `on_body`, a body costs it no Python call.
    Whole chunks, which change nothing for it, are kept from it as long as each read ends where a chunk does. A new
    connection has its first request written before the loop knows it: `rest` is what the kernel did not take of that.
    One without a request is idle from its beginning. asyncio's `Protocol` in all but name: a compiled class has no
    base that is not.

    Attributes:
        pieces: how many reads of an answer's body brought more than a ping; `size`: the bytes of the body so far.
        first: the beginning of the first of them, and `first_s`, when it came on `perf_counter`'s clock; 0: not yet.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
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
            self._pool.outbox.write(transport, request[0])
        else:
            transport.writelines(request)

    def abort(self) -> None:
        """Break the connection off: the engine notices at once and stops working on the request."""
        self._pool.end_work(self)
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
        """The ends of the reads of the body that came last; none: there was none."""
        if self._reads < LAST_PIECES:
            return self._ends[: self._reads]
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
            self._pool.release(self)
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
            if not self._head_only and (answer := self._pool.answers.whole(data)):
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
        answer = self._pool.answers.read(self._parser.get_status_code(), head[:cut])
        self._between = answer.chunked and not self._complete and ends_between(body)
        exchange.on_head(answer, body)

    def _end(self, exchange: Exchange) -> None:
        if self._exchange is not exchange:  # it broke off while it was told
            return
        self._exchange = None
        self._pool.end_work(self)
        if self.paused:  # the last write of an answer may have filled a slow client's buffer
            self.resume_reading()
        if self._reusable and not self._head_only and self._requests < REQUESTS:
            self._pool.release(self)
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
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_lost(stale=self._waited and not self._head_begun)
