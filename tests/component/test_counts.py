"""Every request that comes is counted once, however it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.component.front_rig import Asked, counted, request, rig

pytestmark = pytest.mark.anyio

ALL = ("ok", "error", "cancelled", "refused")


async def test_pipelined_refusals_and_answers_are_counted_each(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        await here.ask(request(close=False) * 5 + request(path="/nowhere", close=False) * 7 + request())
        assert [counted(here, outcome) for outcome in ALL] == [6, 0, 0, 7]


@pytest.mark.parametrize("sent", [b"no HTTP at all\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 60_000])
async def test_what_is_no_request_is_a_refusal(short_dir: Path, sent: bytes) -> None:
    async with rig(short_dir) as here:
        await here.ask(sent)
        assert [counted(here, outcome) for outcome in ALL] == [0, 0, 0, 1]


async def test_a_client_that_leaves_takes_all_that_it_has_asked_for_with_it(short_dir: Path) -> None:
    """The one at work, those in its pipeline, and the one whose body has not come."""

    async def never(asked: Asked) -> None:
        await asked.left()

    async with rig(short_dir, never) as here:
        async with here.connect() as (_, writer):
            writer.write(
                request(close=False) * 3 + b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"
            )
            while not here.engine.asked:
                await asyncio.sleep(0)
        while counted(here, "cancelled") != 4:
            await asyncio.sleep(0)
        assert here.front.metrics.in_flight() == 0


async def test_what_the_front_answers_itself_is_counted_by_its_route(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        for path in ("/health/live", "/health/live", "/health/nothing"):
            await here.ask(request(method="GET", path=path))
        text = b"".join(here.front.metrics.pieces())
        assert b'runner_control_requests_total{path="/health/live",status="2xx"} 2.0' in text
        assert b'runner_control_requests_total{path="other",status="4xx"} 1.0' in text
        assert [counted(here, outcome) for outcome in ALL] == [0, 0, 0, 0]
