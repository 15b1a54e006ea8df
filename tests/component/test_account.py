"""What is written down of a request, where its connection has gone before its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.component.front_rig import CHUNKED, OK, Asked, request, rig

from runner_supervisor.front.audit import AuditLog

pytestmark = pytest.mark.anyio


async def test_a_conversation_whose_client_left_is_written_down_with_its_address(short_dir: Path) -> None:
    left, done = asyncio.Event(), asyncio.Event()

    async def answer_late(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"5\r\nhello\r\n")
        await left.wait()
        asked.writer.write(b"0\r\n\r\n")
        await asked.writer.drain()
        done.set()

    path = short_dir / "audit.log"
    async with rig(short_dir, answer_late) as here:
        with closing(AuditLog(path)) as here.front.desk.audit:
            async with here.connect() as (reader, writer):
                writer.write(request(headers="X-Conversation-Id: talk\r\n", close=False))
                await reader.readuntil(b"hello")
            while here.front._server.server_state.connections:
                await asyncio.sleep(0)
            left.set()
            await done.wait()
            while here.front._relays:
                await asyncio.sleep(0)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["outcome"], line["address"], line["status"]) == ("abandoned", "127.0.0.1", 200)


async def test_the_control_sockets_caller_is_called_local(short_dir: Path) -> None:
    path = short_dir / "audit.log"
    async with rig(short_dir) as here:
        with closing(AuditLog(path)) as here.front.desk.audit:
            reader, writer = await asyncio.open_unix_connection(here.control)
            writer.write(request())
            assert (await reader.read()).endswith(OK[-2:])
            writer.close()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["key"], line["address"]) == ("operator", "local")
