"""Requests whose engine dies: sent again, or given up; and two engines at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.component.crash_rig import CHUNK, STREAM, asked, count, crash_at_work, error, finish, never, post, queued
from tests.component.front_rig import DEADLINE_S, OK, Asked, rig, say_hi, with_id

from runner_supervisor.core.states import State

pytestmark = pytest.mark.anyio


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
        [(entered, _)] = here.front.queue._working.values()
        here.crash()
        await queued(here, 1)
        (_, _, timer), *_ = here.front.queue._waiting.values()
        assert timer.when() == pytest.approx(entered + 0.2)
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
        upstream = here.front.backend.upstream()
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
        upstream = here.front.backend.upstream()
        assert upstream
        assert await upstream.drained(0) == 0
        asking = [asyncio.create_task(here.ask(post())) for _ in range(2)]
        await asked(here, 2)
        assert await upstream.drained(0.01) == 2
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
        upstream = here.front.backend.upstream()
        assert upstream
        writer.write(post(close=False))
        seen = []
        for piece in (STREAM, b"3\r\n:\n\n\r\n", CHUNK, b"3\r\n:\n\n\r\n", b"0\r\n\r\n"):
            pieces.put_nowait(piece)
            await reader.readexactly(len(with_id(piece) if piece is STREAM else piece))
            seen.append(upstream.received)
    assert seen == [1, 1, 2, 2, 2]
