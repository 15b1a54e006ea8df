"""Connections to the engine at the edges of their lives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from pathlib import Path

import pytest
from tests.component.front_rig import OK, request, rig

from runner_supervisor.front.answers import AnswerHead
from runner_supervisor.front.connection import Exchange
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.upstream import Upstream

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Collector(Exchange):
    """Collects an answer."""

    def __init__(self) -> None:
        self.answer = b""
        self.stale = False
        self.done = asyncio.Event()
        self.on_data = self._on_data

    @property
    def takes_slot(self) -> bool:
        return False

    def on_head(self, head: AnswerHead, body: bytes) -> None:
        self.answer += head.with_lines(()) + body

    def _on_data(self, data: bytes) -> None:
        self.answer += data

    def on_end(self) -> None:
        self.done.set()

    def on_lost(self, *, stale: bool) -> None:
        self.stale = stale
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
            connection = upstream.send_on_new([REQUEST], Collector(), head_only=False)
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
        exchange = Collector()
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


async def test_a_request_finds_a_connection_open_that_was_opened_for_none(short_dir: Path) -> None:
    path = short_dir / "engine.sock"
    opened: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    answered = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.put_nowait(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            answered.set()
            await reader.read()
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_unix_server(engine, path):
        upstream = Upstream(path, Outbox(asyncio.get_running_loop()))
        first = upstream.send([REQUEST], Collector(), head_only=False)
        writers = [await opened.get(), await opened.get()]
        await answered.wait()
        while not upstream._idle:  # the engine knew of it first
            await asyncio.sleep(0)
        answered.clear()
        second = upstream.send([REQUEST], Collector(), head_only=False)
        await answered.wait()
        writers.append(await opened.get())  # in reserve again
        assert opened.empty()
        upstream.close()
        first.abort()
        second.abort()
        for writer in writers:
            await writer.wait_closed()


async def test_a_reserve_that_the_engine_has_given_up_is_no_loss(short_dir: Path) -> None:
    path = short_dir / "engine.sock"
    served = 0
    given_up = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served == 2:
            writer.close()
            given_up.set()
            return
        await answer(reader, writer)

    async with asyncio.timeout(10), await asyncio.start_unix_server(engine, path):
        upstream = Upstream(path, Outbox(asyncio.get_running_loop()))
        for _ in range(2):
            exchange = Collector()
            upstream.send([REQUEST], exchange, head_only=False)
            await exchange.done.wait()
            assert exchange.answer.endswith(b"hi") or exchange.stale
            await given_up.wait()
        upstream.close()
