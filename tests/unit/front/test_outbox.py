"""Writes wait for the end of the turn, in order, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from runner_supervisor.front.outbox import LARGE_BYTES, PROBE, Outbox

pytestmark = pytest.mark.anyio


class Transport:
    """Records what is written, and when."""

    def __init__(self, log: list[tuple[str, int]], name: str) -> None:
        self.log, self.name, self.closed = log, name, False

    def write(self, data: bytes) -> None:
        self.log.append((self.name, len(data)))

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def log() -> list[tuple[str, int]]:
    return []


def transport(log: list[tuple[str, int]], name: str) -> Any:
    return cast("asyncio.Transport", Transport(log, name))


async def test_small_writes_are_made_in_order_at_the_end_of_the_turn(log: list[tuple[str, int]]) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a, b = transport(log, "a"), transport(log, "b")
    outbox.write(a, b"1")
    outbox.write(b, b"22")
    outbox.write(a, b"333")
    assert log == []
    await asyncio.sleep(0)
    assert log == [("a", 1), ("b", 2), ("a", 3)]


async def test_a_large_write_is_made_at_once_and_after_what_came_before(log: list[tuple[str, int]]) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a = transport(log, "a")
    outbox.write(a, b"1")
    outbox.write(a, bytes(LARGE_BYTES + 1))
    assert log == [("a", 1), ("a", LARGE_BYTES + 1)]


async def test_what_is_written_at_once_overtakes_nothing(log: list[tuple[str, int]]) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a = transport(log, "a")
    outbox.write(a, b"1")
    outbox.write_now(a, b"22")
    assert log == [("a", 1), ("a", 2)]


async def test_what_has_closed_meanwhile_is_passed_over(log: list[tuple[str, int]]) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a, b = transport(log, "a"), transport(log, "b")
    outbox.write(a, b"1")
    outbox.write(b, b"2")
    a.closed = True
    outbox.flush()
    assert log == [("b", 1)]


async def test_where_turns_have_one_write_it_is_made_at_once_until_it_is_time_to_look_again(
    log: list[tuple[str, int]],
) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a = transport(log, "a")
    outbox.write(a, b"1")
    await asyncio.sleep(0)
    for _ in range(PROBE):
        outbox.write(a, b"1")
    assert len(log) == 1 + PROBE
    outbox.write(a, b"1")
    assert len(log) == 1 + PROBE


async def test_a_turn_with_several_writes_is_followed_by_one_that_collects_them(log: list[tuple[str, int]]) -> None:
    outbox = Outbox(asyncio.get_running_loop())
    a = transport(log, "a")
    for _ in range(2):
        outbox.write(a, b"1")
        outbox.write(a, b"1")
        assert len(log) % 2 == 0
        await asyncio.sleep(0)
    assert len(log) == 4
