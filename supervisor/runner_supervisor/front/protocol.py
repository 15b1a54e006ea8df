"""uvicorn's HTTP protocol with the data path cut short.

uvicorn parses heads and keeps connections; requests for the engine get a `Relay` where uvicorn would make an
ASGI cycle, and all others go to FastAPI untouched. tests/unit/front/test_uvicorn_interface.py pins the parts
of uvicorn this relies on.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from runner_supervisor.front.audit import refused
from runner_supervisor.front.backend import Backend
from runner_supervisor.front.flow import Flow
from runner_supervisor.front.heads import HEAD_BYTES, Heads, Reading
from runner_supervisor.front.message import CLOSE
from runner_supervisor.front.refrain import Refrain, refrain_in
from runner_supervisor.front.relay import Relay
from runner_supervisor.front.replies import (
    HEAD_TOO_LARGE,
    INTERNAL_ERROR,
    NOT_HTTP,
    TOO_SLOW,
    Refusal,
)
from runner_supervisor.front.requestids import accept
from runner_supervisor.front.traces import CONTEXT

logger = logging.getLogger(__name__)

LINGER_S: Final = 1.0
PATIENCE_S: Final = 30.0
"""How long a client may be silent in the middle of a request, or before its first, in seconds."""

PIPELINED: Final = 16

SPARE_AFTER_S: Final = 0.005
"""How long after a connection the next one's protocol is made, in seconds: not in the way of the first request."""

LOCAL: Final = "local"
GONE: Final = "gone"
"""The address of a client that had left before anybody could ask for it."""


class FrontProtocol(HttpToolsProtocol):
    """One client connection. `trusted`: it came over the control socket, whose folder only we can enter."""

    def __init__(
        self,
        *,
        backend: Backend,
        heads: Heads,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        trusted: bool = False,
        first: FrontProtocol | None = None,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if first is None:
            super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        else:
            self.__dict__ = dict(vars(first))  # uvicorn's attributes; compiled, ours are not among them
            self.parser = cast("Any", None)
            self.pipeline = deque()
        self._backend = backend
        self._heads = heads
        self._trusted = trusted
        self._peer = LOCAL if trusted else ""
        self._spare: FrontProtocol | None = None
        self._makes_spare = False
        self._at_work: Relay | None = None
        self._at_fastapi: Any = None
        self._closing = False
        self._head_bytes = 0
        self._in_head = self._in_message = False
        self._length = 0
        self._begun = 0
        self._awaited = 0
        self._refrain: Refrain | None = None
        self._read_at = 0
        self._reading: Reading | None = None
        self._request_id: bytes | None = None
        self._traced = False
        self._context: list[tuple[bytes, bytes]] = []
        self._deadline = 0.0

    def another(self) -> FrontProtocol:
        """One for another connection of the same listener, made before there is need of it. This one is for none."""
        spare, self._spare = self._spare, None
        if not self._makes_spare:
            self._makes_spare = True
            self.loop.call_later(SPARE_AFTER_S, self._make_spare)
        return spare or self._another()

    def _make_spare(self) -> None:
        self._makes_spare = False
        self._spare = self._another()

    def _another(self) -> FrontProtocol:
        """What uvicorn looks up and reads of its configuration for each is looked up and read once. The parser is
        made when there is something to parse.
        """
        return FrontProtocol(
            backend=self._backend,
            heads=self._heads,
            config=self.config,
            server_state=self.server_state,
            app_state=self.app_state,
            trusted=self._trusted,
            first=self,
        )

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected. In place of uvicorn's, which looks up what FastAPI alone reads, too."""
        self.connections.add(self)
        self.transport = transport
        self.flow = cast("Any", Flow(transport))
        self._traced = self._backend.desk.tracer is not None
        self._deadline = self.loop.time() + PATIENCE_S

    def data_received(self, data: bytes) -> None:
        """Bytes from the client. One that sends neither its head nor its body in time, or too much head, goes."""
        self._deadline = self.loop.time() + PATIENCE_S
        if self._awaited:
            data = self._take(data)
        elif not (self._closing or self._in_message) and ((cycle := self.cycle) is None or cycle.response_complete):
            data = self._recognise(data)
        if data:
            self._parse(data)
        if not self._peer:  # asked once its request is on its way, which may outlive the connection
            self._peer = peer_of(self.transport)

    def _recognise(self, data: bytes) -> bytes:
        """Begin a request whose head is known, as the last one or another; returns what is left to be parsed."""
        start = length = 0
        if self._refrain is not None and self._read_at == self._heads.version:
            start, length = self._refrain.find(data)
        if not start:
            if (known := self._heads.recall(data, trusted=self._trusted)) is None:
                return data
            self._refrain, self._reading, start, length = known
            self._read_at = self._heads.version
            self._request_id, self._context = None, []
        relay = self._relay(cast("Reading", self._reading), length)
        body = data[start : start + length]
        if body:
            relay.on_body(body)
        self._awaited = length - len(body)
        if not self._awaited:
            relay.on_request_complete()
        self.cycle = cast("Any", relay)
        self._at_work, self._at_fastapi = relay, None
        relay.start()
        return data[start + len(body) :]

    def _take(self, data: bytes) -> bytes:
        """Bytes of a body whose head was recognised; returns what comes after it."""
        body = data[: self._awaited]
        self._awaited -= len(body)
        self.on_body(body)
        if not self._awaited:
            self.on_message_complete()
        return data[len(body) :]

    def _parse(self, data: bytes) -> None:
        if cast("Any", self.parser) is None:
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        between = not self._in_message
        self._begun = 0
        self._head_bytes += len(data)  # until a head begins: what came with its beginning is not counted
        super().data_received(data)
        if self._in_head:
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE)
        elif between and self._begun == 1 and self._reading is not None and self._reading.recurs:
            self._refrain = refrain_in(data)
            if self._refrain is not None and self._request_id is None and not self._context:
                self._heads.learn(self._refrain, self._reading, trusted=self._trusted)

    def look_at_the_clock(self) -> None:
        """End it if its client has been silent for too long. The server asks each once a second: a timer a connection
        would cost more than all that it watches.
        """
        if self.loop.time() < self._deadline:
            return
        self._deadline += PATIENCE_S  # for what closes late, or not at all
        if self._idle:
            self.transport.abort() if self.flow.write_paused else self.transport.close()
        elif self.flow.read_paused:
            return  # it may well have sent more: it is we who do not read
        elif self._in_head or (isinstance(self.cycle, Relay) and self.cycle.waits_for_body):
            self._refuse(TOO_SLOW)

    @property
    def _idle(self) -> bool:
        """Whether every request that has begun has got its answer."""
        return not self._in_head and (self.cycle is None or self.cycle.response_complete)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that never came whole, once; if others are at work, closing has to do."""
        if self._closing:
            return
        self._in_head = False
        if self._idle:
            self._backend.outbox.write(self.transport, refusal.response([CLOSE]))
            self._backend.desk.tally.unread(refusal.status, refused(refusal.code))
            self.close_after_answer(linger=True)
        elif isinstance(self.cycle, Relay) and self.cycle.waits_for_body:
            self.cycle.refuse(refusal)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; so do its requests, the one at work and those that wait."""
        pending: set[Any] = set()
        if self.cycle is not None and not self.cycle.response_complete:
            pending = {self._at_work, self._at_fastapi, self.cycle, *(cycle for cycle, _ in self.pipeline)}
        super().connection_lost(exc)
        for cycle in pending:
            if isinstance(cycle, Relay):
                cycle.on_client_lost()
            elif cycle is not None and not cycle.response_complete:  # uvicorn tells the last of a pipeline alone
                cycle.disconnected = True
                cycle.message_event.set()
        self._at_work = self._at_fastapi = None

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        if self._at_work:
            self._at_work.pause()
        if self._idle:
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._at_work:
            self._at_work.resume()
        self._read_on()

    def address(self, forwarded: Sequence[bytes]) -> str:
        """The client's address, by what trusted proxies say in X-Forwarded-For. "local": the control socket."""
        peer = self._peer = self._peer or peer_of(self.transport)
        return self._backend.desk.proxies.client(peer, forwarded) if forwarded else peer

    def close_after_answer(self, *, linger: bool) -> None:
        """Close the connection; if the client is still sending, once it may have read the answer.

        Closing a socket that holds unread bytes resets it, and the reset can overtake the answer.
        """
        self._closing = True
        self._backend.outbox.flush()
        if linger:
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The server ends: this connection too, when its answer is out."""
        self._backend.outbox.flush()
        super().shutdown()

    # What the parser found.

    def on_message_begin(self) -> None:
        """A request begins. The scope, which FastAPI alone reads, is made when it is known to be FastAPI's."""
        self.url = b""
        self.headers = []
        self._length = 0
        self._request_id = None
        self._context = []
        self._in_head = self._in_message = True
        self._head_bytes = 0
        self._begun += 1
        self._refrain = self._reading = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a chunked body's trailer, which is left out."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"x-request-id":
            self._request_id = value
        elif self._traced and name in CONTEXT:  # of this request alone: its head is remembered without
            self._context.append((name, value))
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A request's head is in: ours to relay, or FastAPI's."""
        self._in_head = False
        if self._closing:
            return
        self._read_at = self._heads.version
        reading = self._reading = self._heads.read(self.parser, self.url, self.headers, trusted=self._trusted)
        self._request_id = accept(self._request_id)
        if reading.control and reading.reply is None:
            self._hand_to_fastapi(reading, self._request_id or self._backend.desk.ids.next())
            return
        relay = self._relay(reading, self._length)
        before, self.cycle = self.cycle, cast("Any", relay)
        if before is None or before.response_complete:
            self._start_asgi_task(relay, self.app)
        else:
            # Reading goes on, so that a client that leaves is noticed, up to a bound.
            self.pipeline.appendleft((cast("Any", relay), self.app))
            if len(self.pipeline) >= PIPELINED:
                self.flow.pause_reading()

    def _relay(self, reading: Reading, length: int) -> Relay:
        """A request for the engine. `length`: of its body, in bytes."""
        request_id = self._request_id or self._backend.desk.ids.next()
        return Relay(reading, length, request_id, self._context, backend=self._backend, client=self, loop=self.loop)

    def _hand_to_fastapi(self, reading: Reading, request_id: bytes) -> None:
        url, headers = self.url, self.headers
        self.server, self.client = get_local_addr(self.transport), get_remote_addr(self.transport)
        self.scheme = "https" if self.transport.get_extra_info("ssl_object") else "http"
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # the scope has this list
        if self._length:
            self.headers.append((b"content-length", b"%d" % self._length))
        self.scope["state"] = {
            "principal": reading.principal,
            "request_id": request_id,
            "address": self.address(reading.forwarded),
            "extra": reading.extra,
        }
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body. While the connection lingers, of one that nobody has begun."""
        if self._closing:
            return
        if isinstance(self.cycle, Relay):
            self.cycle.on_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's body is complete."""
        self._in_message = False
        if self._closing:
            self.transport.close()
        elif isinstance(self.cycle, Relay):
            self.cycle.on_request_complete()
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP, unless the fault is ours: httptools wraps what a callback raised."""
        error = sys.exc_info()[1]
        fault = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if fault and not isinstance(fault, httptools.HttpParserInvalidURLError):
            logger.error("a request handler failed", exc_info=fault)
            refusal = INTERNAL_ERROR
        else:
            refusal = replace(NOT_HTTP, message=msg)
        self._refuse(refusal)

    # Turns.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's way to give a request its turn; the next in a pipeline comes through here too."""
        if not isinstance(cycle, Relay):
            self._at_work, self._at_fastapi = None, cycle
            super()._start_asgi_task(cycle, app)
            return
        self._at_work, self._at_fastapi = cycle, None
        if self.pipeline:
            self.loop.call_soon(cycle.start)  # one refusal after another would recurse
        else:
            cycle.start()

    def on_response_complete(self) -> None:
        """An answer is out: the next request of the pipeline, or the wait for one."""
        self.server_state.total_requests += 1
        self._deadline = self.loop.time() + self.timeout_keep_alive
        if self.transport.is_closing():
            return
        if self.flow.write_paused:  # no more work for a client that does not read what it got
            self.flow.pause_reading()
        elif self.flow.read_paused:
            self._read_on()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _read_on(self) -> None:
        if len(self.pipeline) <= PIPELINED:
            self.flow.resume_reading()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not taken up is no fault: the request is answered as HTTP/1.1 (RFC 9110, 7.8)."""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end."""
    try:
        return str(transport.get_extra_info("peername")[0])
    except (OSError, TypeError):  # it has left already
        return GONE
