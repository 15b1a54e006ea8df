"""Requests whose engine dies: sent again, given up, or told so in their stream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.component.front_rig import CHUNKED, DEADLINE_S, OK, Asked, Rig, request, rig, say_hi

from runner_supervisor.core.states import State

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"
STREAM = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")
EVENT = b'data: {"content":"The"}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
MESSAGE = "The model server ended (signal 11) before the answer was complete."


async def never(asked: Asked) -> None:
    """Work until the end."""
    await asked.left()


async def begin_a_stream(asked: Asked) -> None:
    asked.writer.write(STREAM + CHUNK)
    await never(asked)


def finish(asked: Asked) -> None:
    """Answer what `never` would not."""
    asked.writer.write(OK.replace(b"Keep-Alive: timeout=5, max=100", b"Connection: close"))


async def asked(here: Rig, count: int) -> None:
    """Wait until so many requests have reached engines."""
    while len(here.engine.asked) != count:
        await asyncio.sleep(0)


async def queued(here: Rig, count: int) -> None:
    while here.front.queue.queued != count:
        await asyncio.sleep(0)


def post(path: str = PATH, *, close: bool = True) -> bytes:
    return request(path=path, body=b"{}", close=close)


def error(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def count(here: Rig, name: str, path: str = PATH) -> bool:
    """Whether one such request was counted."""
    return f'runner_requests_{name}_total{{path="{path}"}} 1.0'.encode() in here.front.metrics.render()


async def crash_at_work(here: Rig, client: asyncio.StreamWriter, *details: str) -> None:
    """Send a request, and let one engine after the other die of it."""
    client.write(post(close=False))
    before = len(here.engine.asked)
    for number, detail in enumerate(details, start=1):
        await asked(here, before + number)
        here.crash(detail=detail)
        if number < len(details):
            await queued(here, 1)
            await here.come_back()


# Sent again.


async def test_a_request_at_work_in_a_crash_is_sent_again_and_counted(short_dir: Path) -> None:
    async with rig(short_dir, never) as here, here.connect() as (reader, writer):
        await crash_at_work(here, writer, "signal 11")
        await queued(here, 1)
        here.engine.answer = say_hi
        await here.come_back()
        assert await reader.readuntil(b"hi")
        assert count(here, "retried")


async def test_without_retries_the_first_crash_is_answered_502(short_dir: Path) -> None:
    async with rig(short_dir, never, max_retries=0) as here, here.connect() as (reader, writer):
        await crash_at_work(here, writer, "signal 11")
        assert await reader.readuntil(b"engine_failed")
        assert not count(here, "retried")


async def test_a_retry_keeps_the_deadline_it_had(short_dir: Path) -> None:
    async with rig(short_dir, never, queue_timeout_s=0.2) as here:
        asking = asyncio.create_task(here.ask(post()))
        await asked(here, 1)
        began = here.front.queue._working[next(iter(here.front.queue._working))].entered
        here.crash()
        await queued(here, 1)
        (_, _, timer), *_ = here.front.queue._waiting.values()
        assert timer.when() == pytest.approx(began + 0.2)
        answer = await asking
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert error(answer)["code"] == "engine_backoff"


async def test_after_its_deadline_a_request_is_not_sent_again(short_dir: Path) -> None:
    async with rig(short_dir, never, queue_timeout_s=0.01) as here:
        asking = asyncio.create_task(here.ask(post()))
        await asked(here, 1)
        await asyncio.sleep(0.02)
        here.crash()
        await here.come_back()
        answer = await asking
        assert len(here.engine.asked) == 1
    assert error(answer)["code"] == "queue_timeout"


async def test_an_engine_told_to_end_costs_a_retry_but_is_no_crash(short_dir: Path) -> None:
    async with rig(short_dir, never, max_retries=5) as here:
        asking = asyncio.create_task(here.ask(post()))
        for number in range(1, 4):
            await asked(here, number)
            here.change(State.STOPPING)
            here.engine.asked[-1].writer.transport.abort()
            await queued(here, 1)
            here.change(State.READY)
        await asked(here, 4)
        finish(here.engine.asked[-1])
        assert (await asking).endswith(b"hi")


# Given up.


async def test_a_request_at_work_in_two_crashes_is_poison(short_dir: Path) -> None:
    async with rig(short_dir, never, max_retries=9) as here, here.connect() as (reader, writer):
        await crash_at_work(here, writer, "signal 11", "exit code 134")
        answer = await reader.readuntil(b"}}")
        assert count(here, "poison")
        await here.come_back()
        here.engine.answer = say_hi
        assert (await here.ask(post())).endswith(b"hi")
        assert len(here.engine.asked) == 3
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert error(answer) == {
        "message": "The model server ended twice while it worked on this request (signal 11, then exit code 134).",
        "type": "invalid_request_error",
        "param": None,
        "code": "poison_request",
    }


async def test_a_crash_on_a_kept_connection_counts_before_the_supervisor_knows_of_it(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(post(close=False))
        await reader.readuntil(b"hi")
        upstream = here.front.upstream()
        assert upstream
        here.engine.answer = never
        writer.write(post(close=False))
        await asked(here, 2)
        here.die()
        while not upstream.lost:
            await asyncio.sleep(0)
        here.change(State.BACKOFF, detail="signal 11")
        await queued(here, 1)
        await here.come_back()
        await asked(here, 3)
        here.crash(detail="signal 6")
        answer = await reader.readuntil(b"}}")
    assert b"(signal 11, then signal 6)" in answer


async def test_a_request_that_only_waits_is_never_poison(short_dir: Path) -> None:
    async with rig(short_dir, never, slots=1) as here, here.connect() as (_, writer):
        await crash_at_work(here, writer, "signal 11")
        await queued(here, 1)
        asking = asyncio.create_task(here.ask(post()))
        await queued(here, 2)
        for _ in range(3):
            here.change(State.READY)
            here.change(State.BACKOFF)
            await queued(here, 2)
        here.engine.answer = say_hi
        await here.come_back()
        assert (await asking).endswith(b"hi")


# Told so in its stream.


async def broken(here: Rig, sent: bytes) -> bytes:
    """What the client gets of a stream whose engine is killed."""
    asking = asyncio.create_task(here.ask(sent))
    await asked(here, 1)
    while not here.front.upstream() or here.front.upstream().received == 0:  # type: ignore[union-attr]
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
        assert count(here, "broken", path)
    data = (event % MESSAGE).encode() + b"\n\n"
    assert answer == STREAM + CHUNK + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


async def test_a_stream_of_which_only_the_head_is_out_ends_with_an_error_event(short_dir: Path) -> None:
    async def begin(asked: Asked) -> None:
        asked.writer.write(STREAM)
        await never(asked)

    async with rig(short_dir, begin) as here:
        answer = await broken(here, post(close=False))
    assert answer.startswith(STREAM)
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
    assert answer == STREAM + CHUNK[:-3]


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
            while here.front.upstream().busy:  # type: ignore[union-attr]
                await asyncio.sleep(0)
        while not count(here, "abandoned"):
            await asyncio.sleep(0)
        here.change(State.BACKOFF)
        assert not count(here, "broken")


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
        upstream = here.front.upstream()
        assert upstream
        before = -1
        while upstream.received != before:  # until the client's buffers are full
            before = upstream.received
            for _ in range(50):
                await asyncio.sleep(0.001)
        assert upstream.busy
        here.change(State.BACKOFF, detail="signal 11")
        writer.transport.resume_reading()
        answer = await reader.read()
    body, _, end = answer.removeprefix(STREAM).rpartition(flood)
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


# Waiting for an engine that is on its way.


async def test_requests_wait_while_an_engine_is_stopped_to_be_started_again(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.change(State.STOPPING)
        asking = asyncio.create_task(here.ask(post()))
        await queued(here, 1)
        here.change(State.STARTING)
        here.change(State.READY)
        assert (await asking).endswith(b"hi")
        here.change(State.STOPPING, wanted=False)
        assert error(await here.ask(post()))["code"] == "engine_stopping"


# Two engines at once.


async def test_what_is_at_work_on_the_engine_before_takes_no_slot_of_the_next(short_dir: Path) -> None:
    async with rig(short_dir, never, slots=1) as here:
        asking = [asyncio.create_task(here.ask(post())) for _ in range(3)]
        await queued(here, 2)
        await asked(here, 1)
        here.change(State.READY)
        await asked(here, 2)
        finish(here.engine.asked[0])
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert here.front.queue.queued == 1  # the one that ends frees no slot a second time
        here.engine.answer = say_hi
        finish(here.engine.asked[1])
        assert all(answer.endswith(b"hi") for answer in await asyncio.gather(*asking))


async def test_what_is_at_work_on_the_engine_before_and_loses_it_waits_again(short_dir: Path) -> None:
    async with rig(short_dir, never, slots=1) as here:
        asking = [asyncio.create_task(here.ask(post()))]
        await asked(here, 1)
        here.change(State.READY)
        asking.append(asyncio.create_task(here.ask(post())))
        await asked(here, 2)
        here.crash()
        await queued(here, 2)
        here.engine.answer = say_hi
        await here.come_back()
        assert all(answer.endswith(b"hi") for answer in await asyncio.gather(*asking))


async def test_an_engines_connections_know_when_the_last_request_is_done(short_dir: Path) -> None:
    async with rig(short_dir, never) as here:
        upstream = here.front.upstream()
        assert upstream
        assert (upstream.busy, await upstream.drained(0)) == (0, 0)
        asking = [asyncio.create_task(here.ask(post())) for _ in range(2)]
        await asked(here, 2)
        assert (upstream.busy, await upstream.drained(0.01)) == (2, 2)
        upstream.close()
        draining = asyncio.create_task(upstream.drained(DEADLINE_S))
        for each in here.engine.asked:
            each.writer.write(OK)
        assert await draining == 0
        assert all(answer.endswith(b"hi") for answer in await asyncio.gather(*asking))
        for each in here.engine.asked:
            await each.left()  # and none of them is kept


async def test_pings_are_no_progress(short_dir: Path) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def in_pieces(asked: Asked) -> None:
        while True:
            asked.writer.write(await pieces.get())

    async with rig(short_dir, in_pieces) as here, here.connect() as (reader, writer):
        upstream = here.front.upstream()
        assert upstream
        writer.write(post(close=False))
        seen = []
        for piece in (STREAM, b"3\r\n:\n\n\r\n", CHUNK, b"3\r\n:\n\n\r\n", b"0\r\n\r\n"):
            pieces.put_nowait(piece)
            await reader.readexactly(len(piece))
            seen.append(upstream.received)
    assert seen == [1, 1, 2, 2, 2]
