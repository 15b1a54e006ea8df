"""What is written down of a request, where its connection has gone before its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.component.front_rig import CHUNKED, OK, Asked, audited, request, rig

from runner_supervisor.core.access import Scope
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.keys.store import KeyStore

pytestmark = pytest.mark.anyio

STREAM = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")


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
        with audited(here, path):
            async with here.connect() as (reader, writer):
                writer.write(request(headers="X-Conversation-Id: talk\r\n", close=False))
                await reader.readuntil(b"hello")
            while here.front._server.server_state.connections:
                await asyncio.sleep(0)
            left.set()
            await done.wait()
            while here.front.backend.relays:
                await asyncio.sleep(0)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["outcome"], line["address"], line["status"]) == ("abandoned", "127.0.0.1", 200)


async def test_what_an_operator_does_is_written_down_after_what_ended_before(short_dir: Path) -> None:
    path = short_dir / "audit.log"
    async with rig(short_dir) as here:
        with audited(here, path):
            await here.ask(request(path="/v1/completions", body=b"{}"))
            reader, writer = await asyncio.open_unix_connection(here.control)
            writer.write(b"GET /admin/log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    lines = map(json.loads, path.read_text().splitlines())
    assert [line["path"] for line in lines] == ["/v1/completions", "/admin/log-level"]


ANTHROPIC = b'data: {"message":{"usage":{"input_tokens":9,"output_tokens":0}}}\n\n'
PIECE = b'data: {"delta":{"text":"sea"}}\n\n'


async def test_what_was_read_of_a_stream_is_counted_though_its_client_left_before_the_figures(
    short_dir: Path,
) -> None:
    async def pour(asked: Asked) -> None:
        asked.writer.write(STREAM)
        for piece in (ANTHROPIC, *[PIECE] * 20):
            asked.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asked.writer.drain()
            await passed.get()
        await asked.left()

    passed: asyncio.Queue[None] = asyncio.Queue()
    path = short_dir / "audit.log"
    async with rig(short_dir, pour) as here:
        with audited(here, path):
            async with here.connect() as (reader, writer):
                writer.write(request(path="/v1/messages", body=b"{}", close=False))
                for piece in (ANTHROPIC, *[PIECE] * 20):
                    await reader.readuntil(piece)
                    passed.put_nowait(None)
            while here.front.backend.relays:
                await asyncio.sleep(0)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["outcome"], line["prompt_tokens"]) == ("abandoned", 9)
    assert line["generated_tokens"] >= 20


@pytest.mark.parametrize("padding", [0, 1 << 20], ids=["short", "long"])
async def test_all_answers_that_were_asked_for_at_once_are_counted(short_dir: Path, padding: int) -> None:
    async def say(asked: Asked) -> None:
        answer = b'{"usage":{"completion_tokens":2,"prompt_tokens":1}}'
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        await asked.writer.drain()

    body = b'{"padding": "%b", "n": 3}' % (b"x" * padding)
    path = short_dir / "audit.log"
    with closing(KeyStore(short_dir / "keys.sqlite")) as store:
        limits = Limits(tokens=Quota(10**6, 86_400.0))
        secret = store.create("metered", scopes=(Scope.INFERENCE,), limits=limits).secret
    async with rig(short_dir, say, max_body_bytes=4 << 20) as here:
        with audited(here, path):
            key = f"authorization: Bearer {secret}\r\n"
            await here.ask(request(path="/v1/completions", body=body, headers=key))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["status"], line["generated_tokens"]) == (200, 6)


async def test_a_long_body_that_nobody_read_may_have_asked_for_more_than_the_engine_says(short_dir: Path) -> None:
    async def say(asked: Asked) -> None:
        texts = b",".join([b'{"text":"%b"}' % (b"word " * 20)] * 3)
        answer = b'{"choices":[%b],"usage":{"completion_tokens":20,"prompt_tokens":1}}' % texts
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        await asked.writer.drain()

    body = b'{"padding": "%b", "n": 3}' % (b"x" * (1 << 20))
    async with rig(short_dir, say, max_body_bytes=4 << 20) as here:
        with audited(here, short_dir / "audit.log"):
            await here.ask(request(path="/v1/completions", body=body))
    (line,) = map(json.loads, (short_dir / "audit.log").read_text().splitlines())
    assert line["generated_tokens"] >= 60


async def test_the_control_sockets_caller_is_called_local(short_dir: Path) -> None:
    path = short_dir / "audit.log"
    async with rig(short_dir) as here:
        with audited(here, path):
            reader, writer = await asyncio.open_unix_connection(here.control)
            writer.write(request())
            assert (await reader.read()).endswith(OK[-2:])
            writer.close()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["key"], line["address"]) == ("operator", "local")


async def test_a_path_that_there_is_not_is_not_written_down(short_dir: Path) -> None:
    path = short_dir / "audit.log"
    async with rig(short_dir) as here:
        with audited(here, path):
            for asked in (b"/admin/status/some-secret", b"/admin/stop"):
                reader, writer = await asyncio.open_unix_connection(here.control)
                writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % asked)
                await reader.read()
                writer.close()
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["other", "/admin/stop"]


async def test_a_stream_that_is_read_again_counts_against_its_keys_limits(short_dir: Path) -> None:
    with closing(KeyStore(short_dir / "keys.sqlite")) as store:
        limits = Limits(requests=Quota(1, 3600.0))
        secret = store.create("slow", scopes=(Scope.INFERENCE,), limits=limits).secret
    async with rig(short_dir) as here:
        asked = request(method="GET", path="/v1/stream?conv_id=x", headers=f"authorization: Bearer {secret}\r\n")
        assert [(await here.ask(asked))[9:12] for _ in range(2)] == [b"200", b"429"]
