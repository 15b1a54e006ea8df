"""Quotas: never more than was agreed, and never a wait that does not help."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner_supervisor.core.quota import CONCURRENT_RETRY_S, Limit, Limits, Quota, Use, Verdict

NOW = 1_760_000_000.0
MINUTE = 60.0

quotas = st.builds(
    Quota, amount=st.integers(1, 50), period_s=st.sampled_from([0.1, 1.0, 7.3, 60.0, 3600.0, 86_400.0])
)
gaps = st.floats(0.0, 200_000.0) | st.floats(0.0, 2.0)


def allowed(verdict: Verdict) -> bool:
    return verdict.exceeded is None


def state(use: Use) -> tuple[float, int, int]:
    return use.spent, use.tokens, use.working


@given(quota=quotas, steps=st.lists(st.tuples(gaps, st.integers(1, 60)), max_size=30))
def test_never_more_requests_than_the_bucket_holds_and_gains(quota: Quota, steps: list[tuple[float, int]]) -> None:
    limits = Limits(requests=quota)
    use, now, taken = Use(at_s=NOW), NOW, 0
    for gap_s, tries in steps:
        now += gap_s
        taken += sum(allowed(use.take(limits, now)) for _ in range(tries))
        assert taken <= quota.amount + (now - NOW) * quota.amount / quota.period_s + 1e-3


@given(quota=quotas, gap_s=gaps)
def test_what_has_been_gained_can_be_taken(quota: Quota, gap_s: float) -> None:
    limits = Limits(requests=quota)
    use = Use(spent=quota.amount, at_s=NOW)
    gained = min(quota.amount, int((NOW + gap_s - NOW) * quota.amount / quota.period_s - 1e-6))
    assert sum(allowed(use.take(limits, NOW + gap_s)) for _ in range(60)) >= gained


@given(
    limits=st.builds(
        Limits,
        requests=st.none() | quotas,
        tokens=st.none() | quotas,
        concurrent=st.none() | st.integers(1, 3),
    ),
    steps=st.lists(st.tuples(gaps, st.integers(0, 60), st.booleans()), max_size=30),
)
@example(limits=Limits(Quota(3, 0.1), Quota(1, 7.3)), steps=[(0.0, 1, True)] * 8)
def test_a_refused_request_takes_nothing_and_may_go_ahead_after_the_wait_it_was_told(
    limits: Limits, steps: list[tuple[float, int, bool]]
) -> None:
    use, now = Use(at_s=NOW), NOW
    for gap_s, tokens, ends in steps:
        now += gap_s
        use.advance(limits, now)
        before = state(use)
        verdict = use.take(limits, now)
        if allowed(verdict):
            use.charge(limits, tokens, now)
            if ends:
                use.release()
            continue
        assert state(use) == before
        longest_s = max(quota.period_s for quota in (limits.requests, limits.tokens, Quota(1, 1.0)) if quota)
        assert 0 < verdict.retry_after_s <= longest_s + 1e-3
        if verdict.exceeded is Limit.CONCURRENT:
            use.release()
        later = use.take(limits, now + verdict.retry_after_s)
        assert allowed(later) or later.exceeded is Limit.CONCURRENT
        now += verdict.retry_after_s
        if allowed(later):
            use.release()


@given(quota=quotas, steps=st.lists(st.tuples(gaps, st.integers(0, 60)), max_size=30))
def test_no_window_lets_a_request_begin_once_its_tokens_are_used(
    quota: Quota, steps: list[tuple[float, int]]
) -> None:
    limits = Limits(tokens=quota)
    use, now = Use(at_s=NOW), NOW
    used: dict[float, int] = {}
    for gap_s, tokens in steps:
        now += gap_s
        window = now - now % quota.period_s
        may = allowed(use.take(limits, now))
        assert may == (used.get(window, 0) < quota.amount)
        if may:
            use.charge(limits, tokens, now)
            used[window] = used.get(window, 0) + tokens


@given(quota=quotas, back_s=st.floats(1e-3, 1e6), spent=st.floats(0.0, 1.0))
def test_a_clock_set_back_neither_fills_nor_empties_the_bucket(quota: Quota, back_s: float, spent: float) -> None:
    limits = Limits(requests=quota)
    use = Use(spent=spent, at_s=NOW)
    use.advance(limits, NOW - back_s)
    assert use.spent == spent
    use.advance(limits, NOW - back_s + quota.period_s * 1.01)
    assert use.spent == 0


def test_a_clock_set_back_over_the_start_of_a_window_gives_no_second_one() -> None:
    limits = Limits(tokens=Quota(10, MINUTE))
    start_s = NOW - NOW % MINUTE
    use = Use(at_s=NOW)
    use.charge(limits, 10, start_s + 0.5)
    refused = use.take(limits, start_s - 0.5)
    assert (refused.exceeded, refused.retry_after_s) == (Limit.TOKENS, pytest.approx(MINUTE + 0.5))
    assert use.take(limits, start_s + 0.7).exceeded is Limit.TOKENS
    assert allowed(use.take(limits, start_s + MINUTE))


def test_a_clock_that_was_years_ahead_shuts_nobody_out_for_years() -> None:
    limits = Limits(Quota(1, MINUTE), Quota(10, MINUTE))
    use = Use(at_s=NOW)
    year_s = 365 * 86_400
    use.charge(limits, 10, NOW + year_s)
    refused = use.take(limits, NOW)
    assert refused.exceeded is Limit.TOKENS
    assert refused.retry_after_s <= MINUTE + 1
    assert allowed(use.take(limits, NOW + refused.retry_after_s))


def test_of_several_limits_the_one_that_lasts_longest_is_told() -> None:
    limits = Limits(Quota(1, MINUTE), Quota(10, 3600.0), 1)
    use = Use(at_s=NOW)
    assert allowed(use.take(limits, NOW))
    assert use.take(limits, NOW).exceeded is Limit.REQUESTS
    use.charge(limits, 10, NOW)
    assert use.take(limits, NOW).exceeded is Limit.TOKENS


def test_at_most_so_many_are_at_work_at_once() -> None:
    limits = Limits(concurrent=2)
    use = Use()
    assert [use.take(limits, NOW).exceeded for _ in range(3)] == [None, None, Limit.CONCURRENT]
    assert use.take(limits, NOW).retry_after_s == CONCURRENT_RETRY_S
    use.release()
    assert allowed(use.take(limits, NOW))


def test_what_is_left_is_told_after_the_request() -> None:
    limits = Limits(Quota(10, MINUTE), Quota(100, MINUTE))
    use = Use(at_s=NOW)
    use.charge(limits, 30, NOW)
    verdict = use.take(limits, NOW)
    assert verdict.requests == (10, 9, 6.0)
    assert verdict.tokens == (100, 70, MINUTE - NOW % MINUTE)


def test_a_request_may_pass_the_budget_of_tokens_and_the_next_one_finds_none_left() -> None:
    limits = Limits(tokens=Quota(10, MINUTE))
    use = Use(at_s=NOW)
    use.charge(limits, 9, NOW)
    assert allowed(use.take(limits, NOW))
    use.charge(limits, 50, NOW)
    refused = use.take(limits, NOW)
    assert refused.exceeded is Limit.TOKENS
    assert refused.tokens is not None
    assert refused.tokens.remaining == 0


def test_a_limit_that_a_key_gets_later_begins_whole() -> None:
    use = Use(at_s=NOW)
    for _ in range(100):
        use.take(Limits(concurrent=1000), NOW)
    use.charge(Limits(concurrent=1000), 1000, NOW)
    assert allowed(use.take(Limits(Quota(5, MINUTE), Quota(5, MINUTE)), NOW))


def test_a_limit_that_is_lowered_is_exhausted_for_no_longer_than_its_period() -> None:
    use = Use(spent=1000.0, at_s=NOW)
    refused = use.take(Limits(Quota(5, MINUTE)), NOW)
    assert refused.retry_after_s == pytest.approx(MINUTE / 5)


def test_what_is_whole_again_need_not_be_kept() -> None:
    limits = Limits(Quota(60, MINUTE), Quota(100, 3600.0))
    use = Use(at_s=NOW)
    use.take(limits, NOW)
    assert use.whole_s(limits) == NOW + 1
    use.charge(limits, 1, NOW)
    assert use.whole_s(limits) == NOW - NOW % 3600 + 3600
