"""Limits that one supervisor keeps: who is counted, and what is kept of it."""

from __future__ import annotations

import pytest

from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import NO_LIMITS, Limit, Limits, Quota, Use, Verdict
from runner_supervisor.keys.limits import DAY_S, LEAST_SWEPT, Count, LocalLimits

DAY = 20_000
NOW = float(DAY * DAY_S)
LIMITS = Limits(Quota(2, 60.0), Quota(100, 60.0), 2)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> LocalLimits:
    return LocalLimits(now=clock)


def principal(key: str = "a", limits: Limits = LIMITS) -> Principal:
    return Principal(Share(key), key, limits=limits)


def test_the_verdict_is_given_once_and_at_once(limits: LocalLimits) -> None:
    verdicts: list[Verdict] = []
    limits.take(principal(), verdicts.append)
    assert [verdict.exceeded for verdict in verdicts] == [None]


def test_keys_have_their_limits_to_themselves(limits: LocalLimits) -> None:
    for _ in range(3):
        limits.decide(principal("a"))
    assert limits.decide(principal("a")).exceeded is Limit.REQUESTS
    assert limits.decide(principal("b")).exceeded is None


def test_a_request_that_has_ended_makes_room(limits: LocalLimits) -> None:
    key = principal(limits=Limits(concurrent=1))
    verdict = limits.decide(key)
    assert limits.decide(key).exceeded is Limit.CONCURRENT
    limits.release(key, verdict.lease)
    assert limits.decide(key).exceeded is None


def test_prompt_and_generated_tokens_count_alike(limits: LocalLimits) -> None:
    limits.charge(principal(), prompt_tokens=60, generated_tokens=40)
    assert limits.decide(principal()).exceeded is Limit.TOKENS


def test_use_is_counted_by_day_with_and_without_limits(limits: LocalLimits, clock: Clock) -> None:
    free = principal("free", NO_LIMITS)
    for key in (free, principal()):
        limits.decide(key)
        limits.charge(key, prompt_tokens=3, generated_tokens=4)
    clock.now += DAY_S
    limits.decide(free)
    _, counts = limits.changes()
    assert counts == {("free", DAY): Count(1, 3, 4), ("a", DAY): Count(1, 3, 4), ("free", DAY + 1): Count(1)}


def test_a_refused_request_is_not_counted(limits: LocalLimits) -> None:
    for _ in range(5):
        limits.decide(principal())
    _, counts = limits.changes()
    assert counts == {("a", DAY): Count(2)}


def test_a_key_without_limits_is_always_let_go_ahead_and_nothing_of_it_stands(limits: LocalLimits) -> None:
    free = principal("free", NO_LIMITS)
    assert all(limits.decide(free) == Verdict() for _ in range(1000))
    standings, _ = limits.changes()
    assert standings == []


def test_what_stood_before_a_restart_stands_after_it(limits: LocalLimits, clock: Clock) -> None:
    limits.decide(principal())
    limits.charge(principal(), prompt_tokens=90, generated_tokens=0)
    standings, _ = limits.changes()
    clock.now += 1
    after = LocalLimits(now=clock)
    after.restore(standings)
    verdict = after.decide(principal())
    assert verdict.requests is not None
    assert verdict.tokens is not None
    assert (verdict.requests.remaining, verdict.tokens.remaining) == (0, 10)


def test_what_was_at_work_before_a_restart_is_not_after_it(limits: LocalLimits, clock: Clock) -> None:
    key = principal(limits=Limits(concurrent=1))
    limits.decide(key)
    after = LocalLimits(now=clock)
    after.restore(limits.changes()[0])
    assert after.decide(key).exceeded is None


def test_changes_are_given_once(limits: LocalLimits) -> None:
    limits.decide(principal())
    assert limits.changes() != ([], {})
    assert limits.changes() == ([], {})


def test_changes_that_could_not_be_kept_are_given_again_with_what_came_since(limits: LocalLimits) -> None:
    limits.decide(principal())
    kept = limits.changes()
    limits.decide(principal())
    limits.give_back(*kept)
    standings, counts = limits.changes()
    assert [(each.key, each.spent) for each in standings] == [("a", 2.0)]
    assert counts == {("a", DAY): Count(2)}


def test_keys_at_rest_are_forgotten_and_those_at_work_are_not(limits: LocalLimits, clock: Clock) -> None:
    busy = principal("busy", Limits(concurrent=1))
    limits.decide(busy)
    for number in range(LEAST_SWEPT - 1):
        key = principal(str(number))
        limits.decide(key)
        limits.release(key, 0)
    clock.now += 120
    limits.decide(principal("next"))
    assert limits._held.keys() == {"busy", "next"}
    assert limits.decide(busy).exceeded is Limit.CONCURRENT


def test_keys_whose_quota_is_not_whole_are_remembered(limits: LocalLimits) -> None:
    for number in range(2 * LEAST_SWEPT):
        key = principal(str(number))
        limits.decide(key)
        limits.release(key, 0)
    assert len(limits._held) == 2 * LEAST_SWEPT


def test_what_others_have_counted_is_taken_over(limits: LocalLimits) -> None:
    limits.follow(principal(), Use(spent=2.0, at_s=NOW, window_s=NOW, tokens=40), allowed=True)
    standing = limits.standing(principal())
    assert (standing.spent, standing.tokens, standing.working) == (2.0, 40, 1)
    assert limits.decide(principal()).exceeded is Limit.REQUESTS


def test_tokens_charged_here_are_not_lost_to_an_older_count_of_others(limits: LocalLimits) -> None:
    limits.charge(principal(), prompt_tokens=50, generated_tokens=0)
    limits.follow(principal(), Use(at_s=NOW, window_s=NOW, tokens=40), allowed=False)
    assert limits.standing(principal()).tokens == 50
    assert limits.standing(principal()).working == 0
