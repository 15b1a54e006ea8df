"""A stream whose engine dies ends with an event that says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from tests.component.crash_rig import CHUNK, MESSAGE, PATH, STREAM, asked, begin_a_stream, never, post
from tests.component.front_rig import DEADLINE_S, Asked, Rig, counted, rig, with_id

from runner_supervisor.core.states import State

pytestmark = pytest.mark.anyio


async def broken(here: Rig, sent: bytes) -> bytes:
    """What the client gets of a stream whose engine is killed."""
    asking = asyncio.create_task(here.ask(sent))
    await asked(here, 1)
    while not here.front.backend.upstream() or here.front.backend.upstream().received == 0:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    here.crash(detail="signal 11")
    return await asking


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (PATH, 'data: {"error":{"message":"%s","type":"server_error","param":null,"code":"engine_failed"}}'),
        ("/v1/messages", 'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"%s"}}'),
        ("/v1/responses", 'event: error\ndata: {"type":"error","code":"engine_failed","message":"%s","param":null}'),
        ("/responses", 'event: error\ndata: {"type":"error","code":"engine_failed","message":"%s","param":null}'),
    ],
)
async def test_a_stream_ends_with_an_error_event_that_its_path_knows(short_dir: Path, path: str, event: str) -> None:
    async with rig(short_dir, begin_a_stream) as here:
        answer = await broken(here, post(path, close=False))
        assert counted(here, "error") == 1
    data = (event % MESSAGE).encode() + b"\n\n"
    assert answer == with_id(STREAM) + CHUNK + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


async def test_a_stream_of_which_only_the_head_is_out_ends_with_an_error_event(short_dir: Path) -> None:
    async def begin(asked: Asked) -> None:
        asked.writer.write(STREAM)
        await never(asked)

    async with rig(short_dir, begin) as here:
        answer = await broken(here, post(close=False))
    assert answer.startswith(with_id(STREAM))
    assert answer.endswith(b"}\n\n\r\n0\r\n\r\n")


async def test_an_http_1_0_client_gets_the_event_without_framing_even_in_the_middle_of_one(short_dir: Path) -> None:
    async def begin(asked: Asked) -> None:
        asked.writer.write(STREAM + CHUNK[:-10])
        await never(asked)

    async with rig(short_dir, begin) as here:
        answer = await broken(here, post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b'data: {"content":\n\ndata: {"error":{"message":' in answer
    assert answer.endswith(b"}}\n\n")


async def test_a_stream_broken_inside_an_event_stays_without_its_end(short_dir: Path) -> None:
    async def begin(asked: Asked) -> None:
        asked.writer.write(STREAM + CHUNK[:-3])
        await never(asked)

    async with rig(short_dir, begin) as here:
        answer = await broken(here, post(close=False))
    assert answer == with_id(STREAM) + CHUNK[:-3]


async def test_a_stream_whose_engine_lives_on_says_that_it_broke_off(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(asked: Asked) -> None:
        asked.writer.write(STREAM + CHUNK)
        await asked.writer.drain()
        asked.writer.close()

    monkeypatch.setattr("runner_supervisor.front.relay.VERDICT_S", 0.05)
    async with rig(short_dir, break_off) as here:
        answer = await here.ask(post(close=False))
    assert b"The model server broke off before the answer was complete." in answer


async def test_a_client_that_leaves_before_the_verdict_is_told_nothing(short_dir: Path) -> None:
    async with rig(short_dir, begin_a_stream) as here:
        async with here.connect() as (reader, writer):
            writer.write(post(close=False))
            await reader.readuntil(CHUNK)
            here.engine.asked[0].writer.transport.abort()
            upstream = here.front.backend.upstream()
            assert upstream
            assert await upstream.drained(DEADLINE_S) == 0
        while not counted(here, "cancelled"):
            await asyncio.sleep(0)
        here.change(State.BACKOFF)
        assert not counted(here, "error")


async def test_a_slow_reader_gets_all_that_came_and_then_the_event(short_dir: Path) -> None:
    event = b"data: " + bytes(65536) + b"\n\n"
    flood = b"%x\r\n%b\r\n" % (len(event), event)

    async def break_off(asked: Asked) -> None:
        asked.writer.write(STREAM + 200 * flood)
        asked.writer.close()

    async with rig(short_dir, break_off) as here, here.connect() as (reader, writer):
        writer.transport.pause_reading()
        writer.write(post(close=False))
        await asked(here, 1)
        upstream = here.front.backend.upstream()
        assert upstream
        before = -1
        while upstream.received != before:  # until the client's buffers are full
            before = upstream.received
            for _ in range(50):
                await asyncio.sleep(0.001)
        assert await upstream.drained(0) == 1
        here.change(State.BACKOFF, detail="signal 11")
        writer.transport.resume_reading()
        answer = await reader.read()
    body, _, end = answer.removeprefix(with_id(STREAM)).rpartition(flood)
    assert body == 199 * flood
    assert MESSAGE.encode() in end
    assert end.endswith(b"}}\n\n\r\n0\r\n\r\n")


async def test_the_openai_client_raises_on_the_event(short_dir: Path) -> None:
    async with rig(short_dir, begin_a_stream) as here:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{here.port}/v1", api_key="unused", max_retries=0)
        async with client:
            stream = await client.completions.create(model="demo", prompt="The sea", stream=True)
            assert await anext(stream)
            here.crash(detail="signal 11")
            with pytest.raises(openai.APIError, match="signal 11"):
                await anext(stream)
