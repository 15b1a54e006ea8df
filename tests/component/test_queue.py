"""The queue before the slots, through the whole front."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.component.front_rig import Asked, Rig, request, rig, say_hi

from runner_supervisor.core.states import State

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"


class Gate:
    """Holds answers back until let through, one by one."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(0)
        self.served: list[str] = []

    async def answer(self, asked: Asked) -> None:
        await self.turns.acquire()
        self.served.append(json.loads(asked.body)["prompt"] if asked.body else "")
        await say_hi(asked)


def post(key: str, body: str) -> bytes:
    return request(path=PATH, body=json.dumps({"prompt": body}).encode(), headers=f"x-api-key: {key}\r\n")


async def queued(here: Rig, count: int) -> None:
    """Wait until `count` requests are in the queue."""
    while here.front.queue.queued != count:
        await asyncio.sleep(0)


async def test_no_more_requests_reach_the_engine_than_it_has_slots(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=2) as here:
        asking = [asyncio.create_task(here.ask(post("any", ""))) for _ in range(5)]
        await queued(here, 3)
        assert len(here.engine.asked) <= 2
        for _ in asking:
            gate.turns.release()
        answers = await asyncio.gather(*asking)
    waited = sorted(answer.split(b"x-queue-position: ")[1][:1] for answer in answers if b"x-queue-ms" in answer)
    assert waited == [b"1", b"2", b"3"]
    assert all(answer.endswith(b"hi") for answer in answers)


async def test_what_takes_no_slot_does_not_queue(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1) as here:
        asking = [asyncio.create_task(here.ask(post("any", ""))) for _ in range(2)]
        await queued(here, 1)
        models = asyncio.create_task(here.ask(request(method="GET", path="/v1/models")))
        while len(here.engine.asked) < 2:
            await asyncio.sleep(0)
        for _ in range(3):
            gate.turns.release()
        assert (await models).endswith(b"hi")
        await asyncio.gather(*asking)


async def test_one_key_with_many_waiting_does_not_hold_another_up(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1, keys=["a", "b"]) as here:
        flood = []
        for number in range(20):
            flood.append(asyncio.create_task(here.ask(post("a", f"a{number}"))))
            await queued(here, number)
        single = asyncio.create_task(here.ask(post("b", "b")))
        await queued(here, 20)
        for _ in range(2):
            gate.turns.release()
        await single
        assert gate.served == ["a0", "b"]
        for _ in flood:
            gate.turns.release()
        await asyncio.gather(*flood)


async def test_a_full_queue_gives_429_and_when_to_return(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1, queue_size=1) as here:
        asking = [asyncio.create_task(here.ask(post("any", ""))) for _ in range(2)]
        await queued(here, 1)
        refused = await here.ask(post("any", ""))
        for _ in asking:
            gate.turns.release()
        await asyncio.gather(*asking)
    head, _, body = refused.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nretry-after: " in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")


async def test_who_waits_too_long_gets_503(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1, queue_timeout_s=0.05) as here:
        first = asyncio.create_task(here.ask(post("any", "")))
        while not here.engine.asked:
            await asyncio.sleep(0)
        late = await here.ask(post("any", ""))
        gate.turns.release()
        assert (await first).endswith(b"hi")
    assert late.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "queue_timeout"' in late
    assert b"retry-after: " in late


async def test_a_waiting_client_that_leaves_frees_its_place(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1, queue_size=1) as here:
        first = asyncio.create_task(here.ask(post("any", "")))
        while not here.engine.asked:
            await asyncio.sleep(0)
        async with here.connect() as (_, writer):
            writer.write(post("any", "left"))
            await queued(here, 1)
        await queued(here, 0)
        second = asyncio.create_task(here.ask(post("any", "stayed")))
        await queued(here, 1)
        for _ in range(2):
            gate.turns.release()
        await asyncio.gather(first, second)
    assert gate.served == ["", "stayed"]


async def test_a_client_that_leaves_while_it_is_served_frees_its_slot(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=1) as here:
        async with here.connect() as (_, writer):
            writer.write(post("any", ""))
            while not here.engine.asked:
                await asyncio.sleep(0)
            second = asyncio.create_task(here.ask(post("any", "")))
            await queued(here, 1)
        for _ in range(2):
            gate.turns.release()
        assert (await second).endswith(b"hi")


async def test_requests_wait_while_the_engine_comes_up_and_are_then_served(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.change(State.BACKOFF)
        asking = asyncio.create_task(here.ask(post("any", "")))
        await queued(here, 1)
        here.change(State.READY)
        assert (await asking).endswith(b"hi")


async def test_nobody_waits_for_an_engine_that_will_not_come(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.change(State.BACKOFF)
        asking = asyncio.create_task(here.ask(post("any", "")))
        await queued(here, 1)
        here.change(State.FAILED)
        answers = [await asking, await here.ask(post("any", ""))]
    assert all(b'"code": "engine_failed"' in answer for answer in answers)


async def test_an_engine_that_dies_loses_nobody_who_got_no_byte(short_dir: Path) -> None:
    gate = Gate()
    async with rig(short_dir, gate.answer, slots=4) as here:
        asking = [asyncio.create_task(here.ask(post("any", str(number)))) for number in range(20)]
        await queued(here, 16)
        while len(here.engine.asked) < 4:
            await asyncio.sleep(0)
        here.listener.close()
        here.socket.unlink()
        for asked in here.engine.asked:
            asked.writer.transport.abort()
        here.change(State.BACKOFF)
        await queued(here, 20)
        await here.listen()
        for _ in range(24):
            gate.turns.release()
        here.change(State.READY)
        assert all(answer.endswith(b"hi") for answer in await asyncio.gather(*asking))


async def test_an_encoded_path_queues_like_a_plain_one(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.change(State.BACKOFF)
        asking = asyncio.create_task(here.ask(request(path="/v1/complet%69ons", body=b"{}")))
        await queued(here, 1)
        here.change(State.READY)
        assert (await asking).endswith(b"hi")
        assert here.engine.asked[0].head.startswith(b"POST /v1/complet%69ons ")


async def test_bodies_that_wait_are_bounded_in_all(short_dir: Path) -> None:
    async with rig(short_dir, max_buffered_bytes=2000) as here:
        here.change(State.BACKOFF)
        asking = [asyncio.create_task(here.ask(post("any", "x" * 900))) for _ in range(2)]
        await queued(here, 2)
        refused = await here.ask(post("any", "x" * 900))
        here.change(State.READY)
        assert all(answer.endswith(b"hi") for answer in await asyncio.gather(*asking))
        assert here.front.backend.buffered_bytes == 0
        assert (await here.ask(post("any", "x" * 900))).endswith(b"hi")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "buffers_full"' in refused


async def test_hundreds_of_waiting_refusals_do_no_harm(short_dir: Path) -> None:
    async with rig(short_dir, queue_size=2000) as here:
        here.change(State.BACKOFF)
        asking = [asyncio.create_task(here.ask(post("any", ""))) for _ in range(500)]
        await queued(here, 500)
        here.change(State.FAILED)
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in await asyncio.gather(*asking))


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_what_is_not_posted_takes_no_slot_and_does_not_wait(short_dir: Path, method: str) -> None:
    async with rig(short_dir) as here:
        here.change(State.LOADING)
        answer = await here.ask(request(method=method, path="/completion"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert not here.front.backend.relays


async def test_what_is_not_posted_is_answered_when_its_engine_dies(short_dir: Path) -> None:
    async def say_nothing(asked: Asked) -> None:
        came.set()
        await asked.left()

    came = asyncio.Event()
    async with rig(short_dir, say_nothing) as here, here.connect() as (reader, writer):
        writer.write(request(method="GET", path="/completion"))
        await came.wait()
        here.crash()
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        assert not here.front.backend.relays
