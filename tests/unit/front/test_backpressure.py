"""Pausing and resuming at the edges of an answer, which real sockets hit only by chance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner_supervisor.front.connection import Connection
from runner_supervisor.front.gate import ANYONE
from runner_supervisor.front.heads import Reading
from runner_supervisor.front.ledger import Ledger
from runner_supervisor.front.message import Head
from runner_supervisor.front.metrics.requests import Tally
from runner_supervisor.front.outbox import LARGE_BYTES, Outbox
from runner_supervisor.front.relay import Relay
from runner_supervisor.front.upstream import Upstream

pytestmark = pytest.mark.anyio

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES + bytes(LARGE_BYTES)


class Transport:
    """Records what it is told."""

    def __init__(self) -> None:
        self.reading = True
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Client(Transport):
    """A client's connection: `on_write` stands for a transport whose buffer fills up."""

    def __init__(self, *, paused: bool) -> None:
        super().__init__()
        self.transport = cast("asyncio.Transport", self)
        self.flow: Any = SimpleNamespace(write_paused=paused)
        self.relay: Relay | None = None

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.relay:
            self.relay.pause()

    def address(self, forwarded: Sequence[bytes]) -> str:  # noqa: ARG002
        return "local"

    def on_response_complete(self) -> None:
        """Nothing comes after."""

    def close_after_answer(self, *, linger: bool) -> None:
        """It stays open."""


def rig(client: Client) -> tuple[Relay, Connection, Transport, Upstream]:
    """A relay whose request is complete, and the idle connection that it will take."""
    outbox = Outbox(asyncio.get_running_loop())
    upstream = Upstream(Path("unused.sock"), outbox)
    connection, transport = Connection(upstream), Transport()
    connection.connection_made(cast("asyncio.Transport", transport))
    upstream.release(connection)
    backend = SimpleNamespace(
        queue=SimpleNamespace(leave=lambda _: None),
        max_body_bytes=1,
        max_buffered_bytes=1,
        buffered_bytes=0,
        draining=False,
        outbox=outbox,
        upstream=lambda: upstream,
        begin=lambda _: None,
        end=lambda _: None,
        desk=SimpleNamespace(contents=None, audit=None, tracer=None, model="", tally=Tally(), ledger=Ledger()),
    )
    head = Head(b"GET", b"/x", [], http_1_0=False, keep_alive=True, owner=None)
    relay = Relay(
        Reading(head, ANYONE, None, control=False, guess=False, extra=(), forwarded=(), recurs=False),
        0,
        b"r1",
        backend=cast("Any", backend),
        client=client,
        loop=asyncio.get_running_loop(),
    )
    relay.on_request_complete()
    return relay, connection, transport, upstream


async def test_an_answer_behind_one_that_is_not_read_yet_is_held_back() -> None:
    client = Client(paused=True)
    relay, _, engine, upstream = rig(client)
    relay.start()
    upstream.outbox.flush()
    assert engine.written.startswith(b"GET /x ")
    assert not engine.reading
    relay.resume()
    assert engine.reading


async def test_a_connection_is_not_given_back_paused() -> None:
    client = Client(paused=False)
    relay, connection, engine, upstream = rig(client)
    client.relay = relay
    relay.start()
    connection.data_received(ANSWER)
    assert client.written == ANSWER.replace(b"\r\n\r\n", b"\r\nx-request-id: r1\r\n\r\n", 1)
    assert upstream.send([b"next"], relay, head_only=False) is connection
    assert engine.reading
