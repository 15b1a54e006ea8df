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
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from runner_supervisor.front.gate import ANYONE, Gate
from runner_supervisor.front.relay import Backend, Relay, Request
from runner_supervisor.front.replies import INTERNAL_ERROR, INVALID_KEY, NOT_HTTP

logger = logging.getLogger(__name__)

LINGER_S = 1.0
CONTROL_PREFIXES = (b"/health", b"/metrics", b"/admin")


def is_control(target: bytes) -> bool:
    """Whether FastAPI answers this target: /health, /metrics, /admin, and what lies below each."""
    if not target.startswith(CONTROL_PREFIXES):
        return False
    path = target.partition(b"?")[0]
    return path[: path.find(b"/", 1)] in CONTROL_PREFIXES if b"/" in path[1:] else path in CONTROL_PREFIXES


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

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        listener = transport.get_extra_info("socket")
        self._trusted = listener is not None and listener.family == getattr(socket, "AF_UNIX", None)
        self.app_state = {**self.app_state, "trusted": self._trusted}

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; so do its requests, the one at work and those that wait."""
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

    def on_headers_complete(self) -> None:
        """A request's head is in: ours to relay, or FastAPI's."""
        if self._closing:
            return
        target = origin_form(self.url)
        if is_control(target):
            super().on_headers_complete()
            return
        http_1_0 = self.parser.get_http_version() == "1.0"
        caller = self._caller()
        relay = Relay(
            Request(self.parser.get_method(), target, self.headers, http_1_0=http_1_0),
            backend=self._backend,
            client=self,
            loop=self.loop,
            keep_alive=not http_1_0 and self.parser.should_keep_alive(),
            caller=caller or "",
            refusal=INVALID_KEY if caller is None else None,
        )
        before, self.cycle = self.cycle, cast("Any", relay)
        if before is None or before.response_complete:
            self._start_asgi_task(relay, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast("Any", relay), self.app))

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
        if isinstance(error, httptools.HttpParserCallbackError):
            logger.error("a request handler failed", exc_info=error.__context__)
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

    def _caller(self) -> str | None:
        if self._trusted:
            return ANYONE
        authorization = api_key = None
        for name, value in self.headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
        return self._gate.admit(authorization, api_key)
