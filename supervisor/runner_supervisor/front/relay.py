"""One request to the engine and its answer back: bytes through, unbuffered, with back-pressure both ways.

A relay stands where uvicorn's own request cycle would (see `front.protocol`). The request's body is collected
first, so the engine never waits for a slow sender and gets every request in one write; the answer is passed
on as it comes. A client that leaves closes the engine's connection at once, which frees its slot.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from runner_supervisor.front.answers import AnswerHead
from runner_supervisor.front.audit import ABANDONED, ANSWERED, BROKEN, CANCELLED, refused
from runner_supervisor.front.backend import Backend
from runner_supervisor.front.body import CHECKED_BYTES, ONE, UNREAD, Body, check_body
from runner_supervisor.front.client import NOBODY_WAITS, Client
from runner_supervisor.front.connection import Connection, Exchange
from runner_supervisor.front.conversations import Lookup
from runner_supervisor.front.epilogue import cancellation, may_end, notice
from runner_supervisor.front.figures import Bill
from runner_supervisor.front.heads import Reading
from runner_supervisor.front.losses import NONE
from runner_supervisor.front.message import CLOSE, CONTINUE, Unchunk
from runner_supervisor.front.replies import (
    BODY_TOO_LARGE,
    DRAINING,
    ENGINE_GONE,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    STOPPED,
    Refusal,
    Reply,
)
from runner_supervisor.front.traces import Headers
from runner_supervisor.front.upstream import Upstream
from runner_supervisor.front.visit import Visit

CONNECT_S: Final = 5.0
CONNECT_EVERY_S: Final = 0.005
VERDICT_S: Final = 2.5
"""How long it may take to know how an engine ended, its last log lines included, in seconds."""


def drop(_data: bytes) -> None:
    """Where the bytes go that nobody waits for."""


class Relay(Exchange):
    """One request on its way. It has the attributes that uvicorn's protocol expects of a request cycle."""

    response_complete = False
    disconnected = False
    _started = False
    _body_complete = False
    _place = 0
    _status = 0
    _was_stale = False
    _alone = False
    """The client has gone, and the engine goes on: the conversation can be read again."""
    _answer: AnswerHead | None = None
    _lookup: Lookup | None = None
    _connection: Connection | None = None
    _upstream: Upstream
    """Where it was sent last."""

    def __init__(
        self,
        reading: Reading,
        length: int,
        request_id: bytes,
        context: Headers = (),
        *,
        backend: Backend,
        client: Client,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._head = head = reading.head
        self.message_event = NOBODY_WAITS
        self._answers = ONE  # how many answers are asked for at once
        self._losses = NONE
        self._refusal: Reply | None = reading.reply
        self._principal = reading.principal
        self._reading = reading
        self._visit = Visit(reading, request_id, client, backend.desk, context)
        self.keep_alive = head.keep_alive
        self._has_body = length > 0 or head.chunked
        self._backend = backend
        self._client = client
        self._transport = client.transport
        self._loop = loop
        self._body = Body(backend)
        if self._refusal is None and length > backend.max_body_bytes:
            self._refusal = BODY_TOO_LARGE

    # The client's side: called by front.protocol.

    def start(self) -> None:
        """It is this request's turn on its connection."""
        if self.disconnected:
            return
        self._started = True
        if self._refusal:
            delay_s = self._visit.punish() if self._reading.guess else 0.0
            if delay_s:
                self._loop.call_later(delay_s, self._reply_late, self._refusal)
            else:
                self._reply(self._refusal)
        elif self._body_complete:
            self._dispatch()
        elif self._head.expects_continue:
            self._write(CONTINUE)

    def _reply_late(self, refusal: Reply) -> None:
        self._backend.desk.strikes.answered()
        self._reply(refusal)

    def on_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._refusal is None and (refusal := self._body.add(data)):
            self.refuse(refusal)

    def refuse(self, refusal: Refusal) -> None:
        """The body is not going to be used: answer, when it is this request's turn."""
        self._body.drop()
        self._refusal = refusal
        if self._started:
            self._reply(refusal)

    @property
    def takes_slot(self) -> bool:
        """Whether the engine needs a slot for it."""
        return self._head.takes_slot

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
        if self._connection and self._head.converses:
            self._go_on_alone(self._connection)
            return
        self.response_complete = True
        if self._connection:
            self._count(whole=False)
            self._connection.abort()
        self._end(ABANDONED)

    def _go_on_alone(self, connection: Connection) -> None:
        """The engine finishes the answer, which can be read again, and its slot is taken until it has."""
        self._alone = True
        self.on_data = self._visit.tee(drop) if self._visit.content else drop
        connection.resume_reading()

    def pause(self) -> None:
        """The client reads slowly: take no more from the engine."""
        if self._connection:
            self._connection.pause_reading()

    def resume(self) -> None:
        """The client has caught up."""
        if self._connection:
            self._connection.resume_reading()

    # The engine's side: called by front.upstream.

    def on_head(self, head: AnswerHead, body: bytes) -> None:
        """Pass the answer's head on, with what is to be said of the request."""
        backend = self._backend
        if backend.draining:
            self.keep_alive = False
        visit = self._visit
        extra = visit.header_lines()
        if not self.keep_alive:
            extra.append(CLOSE)
        if self._place:
            extra.append(b"x-queue-position: %d" % self._place)
            extra.append(b"x-queue-ms: %d" % visit.queue_ms)
        if self._head.looks_up and head.status == 200:
            self._lookup = Lookup(self._principal.id, head.with_lines(extra))
            self.on_data = self._lookup.pieces.append
            self.on_data(body)
        elif self._head.http_1_0 and head.chunked:
            self._write(head.with_lines(extra, chunked=False))
            self.on_data = Unchunk(self._write)
            self.on_data(body)
        else:
            self._write(head.with_lines(extra) + body)
            if not self._alone:
                self.on_data = self._pass_first
        if visit.content:
            visit.content.answer(body)
            self.on_data = visit.tee(self.on_data)
        self._status = head.status
        self._answer = head

    def _pass_first(self, data: bytes) -> None:
        """The first piece after the head, which may still wait for the turn's end; nothing waits before others."""
        transport = self._transport
        self._backend.outbox.write_now(transport, data)
        if not self._visit.content:
            self.on_data = transport.write

    def _write(self, data: bytes) -> None:
        if not self._alone:
            self._backend.outbox.write(self._transport, data)

    def on_end(self) -> None:
        """The answer is complete."""
        self._count(whole=True)
        self._connection = None
        if self._lookup:
            self._write(self._lookup.answer())
        self._finish(self._status)

    def _count(self, *, whole: bool) -> None:
        """See what the engine has spent on this. `whole`: the answer came to its end."""
        connection, status, head = self._connection, self._status, self._head
        if not connection or not head.takes_slot or (status not in {0, 200} and status < 500):
            return
        visit, answers = self._visit, self._answers
        visit.first_s = connection.first_s
        visit.streamed = self.streamed
        visit.bill = Bill(
            asked_bytes=self._body.size,
            prompts=answers.prompts,
            copies=answers.copies,
            generates=head.route.generates,
            first=connection.first,
            last=connection.last,
            pieces=connection.pieces,
            size_bytes=connection.size,
            streamed=visit.streamed,
            whole=whole,
        )

    def on_lost(self, *, stale: bool) -> None:
        """The engine's connection broke. With nothing answered yet, it may be tried again; else the client must know.

        If the connection was merely old, at once, on a new one. A request that takes no slot may have changed
        something, and is not sent to a second engine.
        """
        if self._status or self._alone:
            self._count(whole=False)
        connection, self._connection = self._connection, None
        if self._alone:
            self._close(ABANDONED)
        elif not self._status:
            if stale and not self._was_stale and not self._upstream.lost:
                self._was_stale = True
                self._send(self._upstream)
            else:
                self._outlive()
        elif connection and self._answer and may_end(self._answer, connection.last, http_1_0=self._head.http_1_0):
            self._upstream.when_ended(self._end_stream, within_s=VERDICT_S)
        else:  # its framing lacks an end, which is how the client knows
            self._break_off()

    def _end_stream(self) -> None:
        """Say in the stream what became of it."""
        if self.response_complete:
            return
        self._write(notice(self._head.route.label, self._upstream.ended, http_1_0=self._head.http_1_0))
        self._break_off()

    def _break_off(self, outcome: str = BROKEN) -> None:
        self.keep_alive = False
        self._close(outcome)

    def _outlive(self) -> None:
        """Wait for what becomes of the engine."""
        if self._head.takes_slot:
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
            backend.queue.put_back(self, self._principal.share)

    # The operator's side: see front.live.

    @property
    def visit(self) -> Visit:
        """Its account."""
        return self._visit

    @property
    def connection(self) -> Connection | None:
        """The engine's connection while it is at work there."""
        return self._connection

    @property
    def route(self) -> str:
        """Its route's label."""
        return self._head.route.label

    @property
    def streamed(self) -> bool:
        """Whether its answer, as far as it came, is a stream of events."""
        return self._answer is not None and self._answer.streamed

    def cancel(self) -> None:
        """End it: the engine stops at once, and the client gets an error, in its stream if that has begun."""
        if self.response_complete:
            return
        connection = self._connection
        if connection:
            self._count(whole=False)
            connection.abort()
        if self._alone:
            self._close(CANCELLED)
        elif not self._status:
            self._reply(STOPPED, CANCELLED)
        else:
            http_1_0 = self._head.http_1_0
            if connection and self._answer and may_end(self._answer, connection.last, http_1_0=http_1_0):
                self._write(cancellation(self.route, http_1_0=http_1_0))
            self._break_off(CANCELLED)

    # In between.

    def _dispatch(self) -> None:
        self._backend.begin(self)
        self._visit.keep(self._body.pieces)
        if refusal := self._why_not():
            self._reply(refusal)
        elif self._head.limited:
            self._visit.take(self._on_leave)
        else:
            self._forward()

    def _why_not(self) -> Refusal | None:
        backend, head = self._backend, self._head
        if backend.draining:
            return DRAINING
        if head.looks_up and self._body.size > CHECKED_BYTES:
            return BODY_TOO_LARGE
        if head.takes_slot and backend.upstream() is None and backend.hopeless():
            return backend.unavailable()
        if self._body.size > CHECKED_BYTES and self._principal.limits.tokens is None:
            self._answers = UNREAD
            return None
        refusal, self._answers = check_body(head, self._body.whole())
        return refusal

    def _on_leave(self, refusal: Refusal | None) -> None:
        """The key's limits allow it, or not."""
        backend = self._backend
        if refusal:
            self._reply(refusal)
        elif not self._head.takes_slot:
            self._forward()
        elif (place := backend.queue.enter(self, self._principal.share)) is None:
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
            self._send(upstream)
        elif self._head.takes_slot:
            self._wait_again()
        else:
            self._reply(self._backend.unavailable())

    def _wait_again(self) -> None:
        """The engine is no more, and never got this request: a slot of the next one is to be had."""
        if self._backend.hopeless():
            self._reply(self._backend.unavailable())
        else:
            self._backend.queue.put_back(self, self._principal.share)

    def _send_if_it_lives(self, upstream: Upstream, deadline: float) -> None:
        if upstream.lost and self._head.takes_slot and not self.response_complete:
            self._wait_again()
        else:
            self._send(upstream, deadline)

    def _send(self, upstream: Upstream, deadline: float | None = None) -> None:
        if self.response_complete:
            return
        self._upstream = upstream
        send = upstream.send_on_new if self._was_stale else upstream.send
        head, body, visit = self._head, self._body, self._visit
        visit.sent()
        request = head.encode(body.pieces, body.size, visit.trace_lines)
        try:
            self._connection = send(request, self, head_only=head.head_only)
        except BlockingIOError:  # its backlog is full
            now = self._loop.time()
            deadline = now + CONNECT_S if deadline is None else deadline
            if now < deadline:
                self._loop.call_later(CONNECT_EVERY_S, self._send_if_it_lives, upstream, deadline)
            else:
                self._reply(ENGINE_GONE)
        except (ConnectionRefusedError, FileNotFoundError):
            self._backend.engine_lost(upstream)
            if head.takes_slot and not self._was_stale:
                self._wait_again()
            else:  # the engine may have been at work on it
                self._outlive()
        except OSError:
            self._outlive()
        else:
            if self._client.flow.write_paused:  # the answer before this one is not read yet
                self._connection.pause_reading()

    def _reply(self, reply: Reply, outcome: str | None = None) -> None:
        if self.response_complete:
            return
        if self._has_body and not self._body_complete:
            self.keep_alive = False
        extra = self._visit.header_lines()
        if not self.keep_alive or self._backend.draining:
            extra.append(CLOSE)
        self._write(reply.response(extra, head_only=self._head.head_only))
        self._finish(reply.status, outcome or refused(reply.code))

    def _end(self, outcome: str) -> None:
        self.on_data = drop  # what it was may be this relay's own, which would keep it until the collector comes
        self._body.drop()
        self._backend.queue.leave(self)
        self._backend.end(self)
        self._visit.settle(status=self._status, outcome=outcome)

    def _finish(self, status: int, outcome: str = ANSWERED) -> None:
        self._status = status
        self._close(ABANDONED if self._alone else outcome)

    def _close(self, outcome: str) -> None:
        self.response_complete = True
        self._end(outcome)
        if self._alone:
            return
        if self.keep_alive and not self._backend.draining:
            self._client.on_response_complete()
        else:
            self._client.close_after_answer(linger=self._has_body and not self._body_complete)
