"""When a step is at its end."""

from __future__ import annotations

from runner_supervisor.loadtest.run import Course, Plan


def may_begin(plan: Plan, *, begun: int, now_s: float) -> bool:
    """Whether a step that began at 100 s makes another request."""
    return Course(1, began_s=100.0, begun=begun).may_begin(plan, now_s=now_s)


def test_a_step_of_so_many_requests_ends_with_the_last_of_them() -> None:
    plan = Plan((1,), requests=3, seconds_s=10.0, prompt_tokens=1, max_tokens=2)
    assert may_begin(plan, begun=2, now_s=999.0)
    assert not may_begin(plan, begun=3, now_s=100.0)


def test_a_step_of_so_many_seconds_begins_nothing_after_them() -> None:
    plan = Plan((1,), requests=None, seconds_s=10.0, prompt_tokens=1, max_tokens=2)
    assert may_begin(plan, begun=1_000, now_s=109.9)
    assert not may_begin(plan, begun=0, now_s=110.0)
