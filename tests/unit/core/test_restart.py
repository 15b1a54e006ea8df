"""Backoff, the death tally, and the naming of causes."""

from __future__ import annotations

import pytest

from runner_supervisor.core.restart import Cause, Death, Exit, RestartPolicy, backoff_s, cause_of, recent

POLICY = RestartPolicy(backoff_base_s=1, backoff_cap_s=30, breaker_deaths=3, breaker_window_s=10)


@pytest.mark.parametrize(("attempt", "longest_s"), [(0, 1), (1, 2), (4, 16), (5, 30), (10_000, 30)])
def test_the_wait_is_drawn_evenly_up_to_a_doubling_bound(attempt: int, longest_s: float) -> None:
    waits = [backoff_s(attempt=attempt, jitter=jitter, policy=POLICY) for jitter in (0.0, 0.5, 1.0)]
    assert waits == [0, longest_s / 2, longest_s]


def test_only_as_many_deaths_are_kept_as_can_matter() -> None:
    deaths = tuple(Death(Cause.SIGNAL, "signal 9", at=at, was_ready=True) for at in range(10))
    assert [death.at for death in recent(deaths, now=10, policy=POLICY)] == [7, 8, 9]
    assert [death.at for death in recent(deaths, now=18.5, policy=POLICY)] == [9]


@pytest.mark.parametrize(
    ("exit_", "was_ready", "ever_ready", "cause"),
    [
        (Exit(signal=11), False, False, Cause.SIGNAL),
        (Exit(code=1), False, False, Cause.CONFIG),
        (Exit(code=1), False, True, Cause.EXIT),
        (Exit(code=1), True, True, Cause.EXIT),
        (Exit(code=3), False, False, Cause.EXIT),
        (Exit(code=0), False, False, Cause.CONFIG),
        (Exit(code=0), True, True, Cause.EXIT),
    ],
)
def test_causes(exit_: Exit, was_ready: bool, ever_ready: bool, cause: Cause) -> None:
    assert cause_of(exit_, was_ready=was_ready, ever_ready=ever_ready) is cause
