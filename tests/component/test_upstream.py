"""Connections to the engine at the edges of their lives."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from pathlib import Path

import pytest
from tests.component.front_rig import OK, request, rig

from runner_supervisor.front.answers import AnswerHead
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.upstream import Upstream

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Exchange:
    """Collects an answer."""

    def __init__(self) -> None:
        self.answer = b""
        self.done = asyncio.Event()

    takes_slot = False

    def on_head(self, head: AnswerHead, body: bytes) -> None:
        self.answer += head.with_lines(()) + body

    def on_data(self, data: bytes) -> None:
        self.answer += data

    def on_end(self) -> None:
        self.done.set()

    def on_lost(self, *, stale: bool) -> None:  # noqa: ARG002
        self.done.set()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_new_connection_broken_off_at_once_closes_nothing_but_itself(short_dir: Path, turns: int) -> None:
    path = short_dir / "engine.sock"
    others: list[int] = []
    async with await asyncio.start_unix_server(answer, path):
        upstream = Upstream(path, Outbox(asyncio.get_running_loop()))
        for _ in range(20):
            connection = upstream.send_on_new([REQUEST], Exchange(), head_only=False)
            for _ in range(turns):
                await asyncio.sleep(0)
            connection.abort()
            del connection
            for _ in range(4):
                await asyncio.sleep(0)
            others += os.pipe()  # takes the number that has become free
            gc.collect()
        for number in others:
            os.fstat(number)
            os.close(number)
        exchange = Exchange()
        upstream.send_on_new([REQUEST], exchange, head_only=False)
        await asyncio.wait_for(exchange.done.wait(), 10)
    assert exchange.answer.endswith(b"hi")


async def test_a_request_waits_for_room_in_the_engines_backlog(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.listener.close()
        here.socket.unlink()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(str(here.socket))
            listener.listen(0)
            first.connect(str(here.socket))  # takes the only place
            asking = asyncio.create_task(here.ask(request()))
            while not here.front.metrics.in_flight():
                await asyncio.sleep(0)
            assert not here.engine.asked
            async with await asyncio.start_unix_server(here.engine.serve, sock=listener.dup()):
                answered = await asking
    assert answered.endswith(b"hi")
