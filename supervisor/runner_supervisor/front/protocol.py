"""uvicorn's HTTP protocol with the data path cut short.

uvicorn parses heads and keeps connections; requests for the engine get a `Relay` where uvicorn would make an
ASGI cycle, and all others go to FastAPI untouched. tests/unit/front/test_uvicorn_interface.py pins the parts
of uvicorn this relies on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from runner_supervisor.front.gate import ANYONE, Gate
from runner_supervisor.front.message import Request
from runner_supervisor.front.relay import Backend, Relay
from runner_supervisor.front.replies import (
    FOREIGN_ORIGIN,
    HEAD_TOO_LARGE,
    INTERNAL_ERROR,
    INVALID_KEY,
    NOT_HTTP,
    TOO_SLOW,
    Refusal,
)

logger = logging.getLogger(__name__)

LINGER_S = 1.0
PATIENCE_S = 30.0
"""How long a client may be silent in the middle of a request, or before its first, in seconds."""

HEAD_BYTES = 64 * 1024
PIPELINED = 16
CONTROL_PREFIXES = (b"/health", b"/metrics", b"/admin")


def is_control(target: bytes) -> bool:
    """Whether FastAPI answers this target: /health, /metrics, /admin, and what lies below each."""
    if not target.startswith(CONTROL_PREFIXES):
        return False
    path = target.partition(b"?")[0]
    return path[: path.find(b"/", 1)] in CONTROL_PREFIXES if b"/" in path[1:] else path in CONTROL_PREFIXES


def is_local(origin: bytes) -> bool:
    """Whether an Origin header names this machine itself, and so a page that runs here."""
    host = urlsplit(origin.decode("latin-1")).hostname
    if host == "localhost":
        return True
    try:
        return host is not None and ip_address(host).is_loopback
    except ValueError:
        return False


def origin_form(target: bytes) -> bytes:
    """A request target as path and query: `http://host/path?query` becomes `/path?query` (RFC 9112, 3.2.2)."""
    if target.startswith(b"/"):
        return target
    url = httptools.parse_url(target)
    query = b"?" + url.query if url.query else b""
    return (url.path or b"/") + query


class FrontProtocol(HttpToolsProtocol):
    """One client connection. `trusted`: it came over the control socket, whose folder only we can enter."""

    def __init__(
        self,
        *,
        backend: Backend,
        gate: Gate,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._backend = backend
        self._gate = gate
        self._trusted = False
        self._at_work: Relay | None = None
        self._closing = False
        self._head_bytes = 0
        self._in_head = False
        self._patience: asyncio.TimerHandle | None = None

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        listener = transport.get_extra_info("socket")
        self._trusted = listener is not None and listener.family == getattr(socket, "AF_UNIX", None)
        self.app_state = {**self.app_state, "trusted": self._trusted}
        self._patience = self.loop.call_later(PATIENCE_S, self._lose_patience)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client. One that sends neither its head nor its body in time, or too much head, goes."""
        if self._patience:
            self._patience.cancel()
            self._patience = None
        self._head_bytes += len(data)  # until a head begins: what came with its beginning is not counted
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse_head(HEAD_TOO_LARGE)
            return
        if self._in_head or (isinstance(self.cycle, Relay) and self.cycle.waits_for_body):
            self._patience = self.loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if isinstance(self.cycle, Relay) and self.cycle.waits_for_body:
            self.cycle.on_too_slow()
        elif self._in_head:
            self._refuse_head(TOO_SLOW)
        else:
            self.transport.close()

    def _refuse_head(self, refusal: Refusal) -> None:
        """Answer a request whose head never came whole; if others are at work, closing has to do."""
        self._in_head = False
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(refusal.response(keep_alive=False))
            self.close_after_answer(linger=True)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; so do its requests, the one at work and those that wait."""
        if self._patience:
            self._patience.cancel()
        pending = {self._at_work, self.cycle, *(cycle for cycle, _ in self.pipeline)}
        super().connection_lost(exc)
        for cycle in pending:
            if isinstance(cycle, Relay):
                cycle.on_client_lost()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        if self._at_work:
            self._at_work.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._at_work:
            self._at_work.resume()

    def close_after_answer(self, *, linger: bool) -> None:
        """Close the connection; if the client is still sending, once it may have read the answer.

        Closing a socket that holds unread bytes resets it, and the reset can overtake the answer.
        """
        self._closing = True
        if linger:
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    # What the parser found.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A request's head is in: ours to relay, or FastAPI's."""
        self._in_head = False
        if self._closing:
            return
        target = origin_form(self.url)
        if is_control(target):
            super().on_headers_complete()
            return
        http_1_0 = self.parser.get_http_version() == "1.0"
        caller, refusal = self._admit()
        relay = Relay(
            Request(self.parser.get_method(), target, self.headers, http_1_0=http_1_0),
            backend=self._backend,
            client=self,
            loop=self.loop,
            keep_alive=not http_1_0 and self.parser.should_keep_alive(),
            caller=caller,
            refusal=refusal,
        )
        before, self.cycle = self.cycle, cast("Any", relay)
        if before is None or before.response_complete:
            self._start_asgi_task(relay, self.app)
        else:
            # Reading goes on, so that a client that leaves is noticed, up to a bound.
            self.pipeline.appendleft((cast("Any", relay), self.app))
            if len(self.pipeline) >= PIPELINED:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body."""
        if isinstance(self.cycle, Relay):
            self.cycle.on_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's body is complete."""
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
            self.transport.write(INTERNAL_ERROR.response(keep_alive=False))
        else:
            self.transport.write(replace(NOT_HTTP, message=msg).response(keep_alive=False))
        self.transport.close()

    # Turns.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's way to give a request its turn; the next in a pipeline comes through here too."""
        if not isinstance(cycle, Relay):
            self._at_work = None
            super()._start_asgi_task(cycle, app)
            return
        self._at_work = cycle
        if self.pipeline:
            self.loop.call_soon(cycle.start)  # one refusal after another would recurse
        else:
            cycle.start()

    def _admit(self) -> tuple[str, Refusal | None]:
        """Who is asking, and why not, if so."""
        if self._trusted:
            return ANYONE, None
        authorization = api_key = origin = None
        for name, value in self.headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
            elif name == b"origin":
                origin = value
        caller = self._gate.admit(authorization, api_key)
        if caller is None:
            return "", INVALID_KEY
        if caller == ANYONE and origin is not None and not is_local(origin):
            return "", FOREIGN_ORIGIN
        return caller, None

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not taken up is no fault: the request is answered as HTTP/1.1 (RFC 9110, 7.8)."""
