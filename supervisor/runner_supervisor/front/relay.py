"""One request to the engine and its answer back: bytes through, unbuffered, with back-pressure both ways.

A relay stands where uvicorn's own request cycle would (see `front.protocol`). The request's body is collected
first, so the engine never waits for a slow sender and gets every request in one write; the answer is passed
on as it comes. A client that leaves closes the engine's connection at once, which frees its slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from runner_supervisor.front.backend import Backend
from runner_supervisor.front.body import CHECKED_BYTES, check_body
from runner_supervisor.front.conversations import public_answer
from runner_supervisor.front.epilogue import epilogue, error_event, may_end
from runner_supervisor.front.heads import Reading
from runner_supervisor.front.losses import Losses
from runner_supervisor.front.message import CONTINUE, Unchunk, client_head, is_chunked, with_length
from runner_supervisor.front.replies import (
    BODY_TOO_LARGE,
    BUFFERS_FULL,
    DRAINING,
    ENGINE_GONE,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    Refusal,
)
from runner_supervisor.front.upstream import Connection, Upstream

CONNECT_S = 5.0
CONNECT_EVERY_S = 0.005
VERDICT_S = 2.5
"""How long it may take to know how an engine ended, its last log lines included, in seconds."""


class Client(Protocol):
    """The client's connection, as its protocol offers it to a relay."""

    transport: asyncio.Transport
    flow: FlowControl

    def on_response_complete(self) -> None:
        """The answer has been written: the next request may start."""

    def close_after_answer(self, *, linger: bool) -> None:
        """The answer has been written and was the last one. `linger`: the client is still sending."""


class NobodyWaits:
    """Takes the place of the event on which uvicorn wakes an ASGI application; a relay has none."""

    def set(self) -> None:
        """Wake nobody."""


NOBODY_WAITS = NobodyWaits()


class Relay:
    """One request on its way. It has the attributes that uvicorn's protocol expects of a request cycle."""

    response_complete = False
    disconnected = False
    message_event = NOBODY_WAITS
    _started = False
    _body_complete = False
    _body_bytes = 0
    _place = 0
    _status = 0
    _was_stale = False
    _losses = Losses()
    _answer_head = b""
    _found = b""
    """The head of an answer to a lookup of conversations, which is passed on when its body is known."""
    _connection: Connection | None = None
    _upstream: Upstream
    """Where it was sent last."""
    on_data: Callable[[bytes], None]
    """Passes bytes of the answer on, at once: tokens are not kept waiting."""

    def __init__(
        self,
        reading: Reading,
        length: int,
        *,
        backend: Backend,
        client: Client,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._head = head = reading.head
        self._share = reading.share
        self._refusal = reading.refusal
        self.keep_alive = head.keep_alive
        self._has_body = length > 0 or head.chunked
        self._backend = backend
        self._client = client
        self._loop = loop
        self._body: list[bytes] = []
        self._began_s = self._sent_s = perf_counter()
        self._write: Callable[[bytes], None] = partial(backend.outbox.write, client.transport)
        self.on_data = partial(backend.outbox.write_now, client.transport)
        if self._refusal is None and length > backend.max_body_bytes:
            self._refusal = BODY_TOO_LARGE

    # The client's side: called by front.protocol.

    def start(self) -> None:
        """It is this request's turn on its connection."""
        if self.disconnected:
            return
        self._started = True
        if self._refusal:
            self._reply(self._refusal)
        elif self._body_complete:
            self._dispatch()
        elif self._head.expects_continue:
            self._write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._refusal:
            return
        backend = self._backend
        self._body.append(data)
        self._body_bytes += len(data)
        backend.buffered_bytes += len(data)
        if self._body_bytes > backend.max_body_bytes:
            self.refuse(BODY_TOO_LARGE)
        elif backend.buffered_bytes > backend.max_buffered_bytes:
            self.refuse(BUFFERS_FULL)

    def refuse(self, refusal: Refusal) -> None:
        """The body is not going to be used: answer, when it is this request's turn."""
        self._drop_body()
        self._refusal = refusal
        if self._started:
            self._reply(refusal)

    def _drop_body(self) -> None:
        self._backend.buffered_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body.clear()

    @property
    def takes_slot(self) -> bool:
        """Whether the engine needs a slot for it."""
        return self._head.route.queued

    @property
    def waits_for_body(self) -> bool:
        """Whether the client has yet to send the rest of the request, and nothing else is amiss."""
        return not self._body_complete and not self.response_complete

    def on_request_complete(self) -> None:
        """The request's body is all here."""
        self._body_complete = True
        if self._started and not self._refusal:
            self._dispatch()

    def on_client_lost(self) -> None:
        """The client has gone: let the engine know by closing its connection."""
        self.disconnected = True
        if self.response_complete:
            return
        self.response_complete = True
        if self._connection:
            self._connection.abort()
        if self._started:
            self._backend.metrics.abandoned(self._head.route.label)
        self._end()

    def pause(self) -> None:
        """The client reads slowly: take no more from the engine."""
        if self._connection:
            self._connection.pause_reading()

    def resume(self) -> None:
        """The client has caught up."""
        if self._connection:
            self._connection.resume_reading()

    # The engine's side: called by front.upstream.

    def on_head(self, status: int, head: bytes, body: bytes) -> None:
        """Pass the answer's head on, without what belongs to the engine's connection."""
        backend = self._backend
        if backend.draining:
            self.keep_alive = False
        extra = [] if self.keep_alive else [b"connection: close"]
        if self._place:
            extra.append(b"x-queue-position: %d" % self._place)
            extra.append(b"x-queue-ms: %d" % (1000 * (self._sent_s - self._began_s)))
        if self._head.looks_up and status == 200:
            self._found = client_head(head, extra)
            self._body = [body]
            self.on_data = self._body.append
        elif self._head.http_1_0 and is_chunked(head):
            self._write(client_head(head, extra, chunked=False))
            self.on_data = Unchunk(self._write)
            self.on_data(body)
        else:
            self._write(client_head(head, extra) + body)
        self._status = status
        self._answer_head = head
        backend.metrics.first_byte(self._head.route.label, perf_counter() - self._began_s)

    def on_end(self) -> None:
        """The answer is complete."""
        self._connection = None
        if self._found:
            found = public_answer(self._share.key, self._whole_body())
            self._write(with_length(self._found, len(found)) + found)
        self._finish(self._status)

    def on_lost(self, last: bytes, *, stale: bool) -> None:
        """The engine's connection broke. With nothing answered yet, it may be tried again; else the client must know.

        If the connection was merely old, at once, on a new one. A request that takes no slot may have changed
        something, and is not sent to a second engine.
        """
        self._connection = None
        if not self._status:
            if stale and not self._was_stale and not self._upstream.lost:
                self._was_stale = True
                self._send(self._upstream, self._loop.time() + CONNECT_S)
            else:
                self._outlive()
        elif may_end(self._answer_head, last, http_1_0=self._head.http_1_0):
            self._upstream.when_ended(self._end_stream, within_s=VERDICT_S)
        else:  # its framing lacks an end, which is how the client knows
            self._break_off()

    def _end_stream(self) -> None:
        """Say in the stream what became of it."""
        if self.response_complete:
            return
        ended = self._upstream.ended
        how = f"ended ({ended})" if ended else "broke off" if ended is None else "was replaced or stopped"
        event = error_event(self._head.route.label, f"The model server {how} before the answer was complete.")
        self._write(epilogue(event, http_1_0=self._head.http_1_0))
        self._break_off()

    def _break_off(self) -> None:
        self.keep_alive = False
        self._backend.metrics.broken(self._head.route.label)
        self._close()

    def _outlive(self) -> None:
        """Wait for what becomes of the engine."""
        if self._head.route.queued:
            self._upstream.when_ended(self._wait_for_another, within_s=VERDICT_S)
        else:
            self._reply(ENGINE_GONE)

    def _wait_for_another(self) -> None:
        """The engine has ended, or only broke this connection: wait for the next one, if that is any use."""
        if self.response_complete:
            return
        if not self._upstream.lost:
            self._reply(ENGINE_GONE)
            return
        backend = self._backend
        losses = self._losses = self._losses.and_one(self._upstream.ended)
        if losses.poison:
            backend.metrics.poison(self._head.route.label)
        if refusal := losses.refusal(backend.max_retries):
            self._reply(refusal)
        elif backend.hopeless():
            self._reply(backend.unavailable())
        else:
            self._was_stale = False
            backend.metrics.retried(self._head.route.label)
            backend.queue.put_back(self, self._share)

    # In between.

    def _dispatch(self) -> None:
        backend = self._backend
        backend.begin(self)
        if backend.draining:
            self._reply(DRAINING)
        elif self._head.looks_up and self._body_bytes > CHECKED_BYTES:
            self._reply(BODY_TOO_LARGE)
        elif self._body_bytes <= CHECKED_BYTES and (refusal := check_body(self._head, self._whole_body())):
            self._reply(refusal)
        elif not self._head.route.queued:
            self._forward()
        elif backend.hopeless():
            self._reply(backend.unavailable())
        elif (place := backend.queue.enter(self, self._share)) is None:
            self._reply(replace(QUEUE_FULL, retry_after_s=backend.queue.retry_after_s))
        elif place:
            self._place = place
        else:
            self._forward()

    # The queue's side: called by front.queue.

    def on_admitted(self) -> None:
        """A slot is this request's, after a wait."""
        self._forward()

    def on_expired(self) -> None:
        """No slot came free in time, or none ever will."""
        if self._backend.upstream() is None:
            self._reply(self._backend.unavailable())
        else:
            self._reply(replace(QUEUE_TIMEOUT, retry_after_s=self._backend.queue.retry_after_s))

    def _forward(self) -> None:
        upstream = self._backend.upstream()
        if upstream is not None:
            self._send(upstream, self._loop.time() + CONNECT_S)
        elif self._head.route.queued:
            self._wait_again()
        else:
            self._reply(self._backend.unavailable())

    def _wait_again(self) -> None:
        """The engine is no more, and never got this request: a slot of the next one is to be had."""
        if self._backend.hopeless():
            self._reply(self._backend.unavailable())
        else:
            self._backend.queue.put_back(self, self._share)

    def _send_if_it_lives(self, upstream: Upstream, deadline: float) -> None:
        if upstream.lost and self._head.route.queued and not self.response_complete:
            self._wait_again()
        else:
            self._send(upstream, deadline)

    def _send(self, upstream: Upstream, deadline: float) -> None:
        if self.response_complete:
            return
        self._upstream = upstream
        send = upstream.send_on_new if self._was_stale else upstream.send
        head = self._head
        self._sent_s = perf_counter()
        try:
            self._connection = send(head.encode(self._body, self._body_bytes), self, head_only=head.method == b"HEAD")
        except BlockingIOError:  # its backlog is full
            if self._loop.time() < deadline:
                self._loop.call_later(CONNECT_EVERY_S, self._send_if_it_lives, upstream, deadline)
            else:
                self._reply(ENGINE_GONE)
        except (ConnectionRefusedError, FileNotFoundError):
            self._backend.engine_lost(upstream)
            if head.route.queued and not self._was_stale:
                self._wait_again()
            else:  # the engine may have been at work on it
                self._outlive()
        except OSError:
            self._outlive()
        else:
            if self._client.flow.write_paused:  # the answer before this one is not read yet
                self._connection.pause_reading()

    def _whole_body(self) -> bytes:
        if len(self._body) > 1:
            self._body = [b"".join(self._body)]
        return self._body[0] if self._body else b""

    def _reply(self, refusal: Refusal) -> None:
        if self.response_complete:
            return
        if self._has_body and not self._body_complete:
            self.keep_alive = False
        keep_alive = self.keep_alive and not self._backend.draining
        self._write(refusal.response(keep_alive=keep_alive, head_only=self._head.method == b"HEAD"))
        self._finish(refusal.status)

    def _end(self) -> None:
        if self._body_bytes:
            self._drop_body()
        self._backend.queue.leave(self)
        self._backend.end(self)

    def _finish(self, status: int) -> None:
        self._backend.metrics.answered(self._head.route.label, status)
        self._close()

    def _close(self) -> None:
        self.response_complete = True
        self._end()
        if self.keep_alive and not self._backend.draining:
            self._client.on_response_complete()
        else:
            self._client.close_after_answer(linger=self._has_body and not self._body_complete)
