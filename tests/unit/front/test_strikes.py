"""Wrong keys make whoever tries them wait, and nobody else."""

from __future__ import annotations

import logging

import pytest

from runner_supervisor.front.strikes import ADDRESSES, FORGOTTEN_S, FREE, HELD, LONGEST_S, MINUTE_S, Strikes


class Clock:
    """Goes forward when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(strikes: Strikes, times: int, address: str = "192.0.2.1") -> list[float]:
    """So many wrong keys, each answered before the next."""
    delays = []
    for _ in range(times):
        delays.append(strikes.failed(address))
        if delays[-1]:
            strikes.answered()
    return delays


def test_a_few_are_answered_at_once_and_then_each_later_than_the_one_before(clock: Clock) -> None:
    delays = fail(Strikes(clock=clock), FREE + 8)
    assert delays == [0, 0, 0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_S, LONGEST_S]


def test_it_never_takes_longer_than_the_longest(clock: Clock) -> None:
    assert fail(Strikes(clock=clock), 2000)[-1] == LONGEST_S


def test_addresses_are_counted_apart(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    assert fail(strikes, FREE + 1)[-1] > 0
    assert fail(strikes, FREE, "192.0.2.2") == [0.0] * FREE


def test_one_customers_ipv6_addresses_are_counted_as_one(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    fail(strikes, FREE, "2001:db8::1")
    assert fail(strikes, 1, "2001:db8::ffff:2") == [0.1]
    assert fail(strikes, 1, "2001:db8:0:1::1") == [0.0]


def test_a_slip_now_and_then_is_free(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    for _ in range(10):
        assert fail(strikes, FREE)[-1] == 0
        clock.now += MINUTE_S + 1


def test_who_guessed_is_remembered_for_longer(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    fail(strikes, FREE + 1)
    clock.now += FORGOTTEN_S - 1
    assert fail(strikes, 1) == [0.2]
    clock.now += FORGOTTEN_S + 1
    assert fail(strikes, 1) == [0.0]


def test_only_so_many_addresses_are_remembered(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    fail(strikes, FREE + 1, "192.0.2.1")
    for number in range(ADDRESSES):
        strikes.failed(f"198.51.{number >> 8}.{number & 255}")
    assert fail(strikes, 1, "192.0.2.1") == [0.0]


def test_only_so_many_answers_are_kept_back_at_once(clock: Clock) -> None:
    strikes = Strikes(clock=clock)
    fail(strikes, FREE)
    assert all(strikes.failed("192.0.2.1") for _ in range(HELD))
    assert strikes.failed("192.0.2.1") == 0.0
    strikes.answered()
    assert strikes.failed("192.0.2.1") == LONGEST_S


def test_guessing_is_warned_of_ever_more_seldom(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fail(Strikes(clock=clock), 1500)
    assert [record.getMessage() for record in caplog.records] == [
        f"{count} wrong keys from 192.0.2.1" for count in (10, 100, 1000)
    ]
