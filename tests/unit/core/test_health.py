"""Progress: what counts as it, and for how long its lack is borne."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.core.health import LONGEST_GAP_S, PATIENCE_FACTOR, Progress, Sight

LIMIT_S = 60.0
START = Sight(at=100.0, answered=True, busy=True, elsewhere=False, marks=(1.0, 1.0), cpu_s=5.0)


def after(seconds: float, **changes: object) -> Progress:
    """What is known when every look for so many seconds, one a second, shows the same."""
    progress = Progress(replace(START, **changes))  # type: ignore[arg-type]
    for second in range(1, round(seconds) + 1):
        progress = progress.look(replace(progress.last, at=START.at + second))
    return progress


def test_work_without_progress_is_a_stall_when_time_is_up() -> None:
    assert after(59).left_s(LIMIT_S) == 1
    assert after(60).left_s(LIMIT_S) == 0


def test_an_idle_engine_that_answers_may_rest_for_ever() -> None:
    assert after(500, busy=False).left_s(LIMIT_S) == LIMIT_S


def test_an_idle_engine_that_does_not_answer_is_a_stall() -> None:
    assert after(60, busy=False, answered=False).left_s(LIMIT_S) == 0


@pytest.mark.parametrize("marks", [(2.0, 1.0), (1.0, 0.0)])
def test_a_number_that_moves_is_progress(marks: tuple[float, ...]) -> None:
    progress = after(59)
    assert progress.look(replace(progress.last, at=160, marks=marks)).left_s(LIMIT_S) == LIMIT_S


def test_a_number_that_could_not_be_had_is_no_progress() -> None:
    progress = after(59)
    progress = progress.look(replace(progress.last, at=160, marks=(None, None)))
    assert progress.left_s(LIMIT_S) == 0
    assert progress.last.marks == START.marks


def test_processor_time_buys_ten_times_as_long() -> None:
    progress = Progress(START)
    for second in range(1, PATIENCE_FACTOR * 60):
        progress = progress.look(replace(progress.last, at=START.at + second, cpu_s=START.cpu_s + second))
        assert progress.left_s(LIMIT_S) > 0
    progress = progress.look(replace(progress.last, at=progress.last.at + 1, cpu_s=progress.last.cpu_s + 1))
    assert progress.left_s(LIMIT_S) == 0


def test_work_outside_the_main_thread_buys_as_long_while_that_answers() -> None:
    assert after(120, elsewhere=True).left_s(LIMIT_S) > 0
    assert after(60 * PATIENCE_FACTOR, elsewhere=True).left_s(LIMIT_S) == 0
    assert after(60, elsewhere=True, answered=False).left_s(LIMIT_S) == 0


def test_a_little_processor_time_is_no_work() -> None:
    progress = Progress(START)
    for second in range(1, 61):
        progress = progress.look(replace(progress.last, at=START.at + second, cpu_s=START.cpu_s + 0.05 * second))
    assert progress.left_s(LIMIT_S) == 0


def test_a_gap_in_our_own_looking_is_not_held_against_the_engine() -> None:
    progress = Progress(START)
    assert progress.look(replace(START, at=START.at + 3600)).left_s(LIMIT_S) == LIMIT_S - LONGEST_GAP_S


SIGHTS = st.tuples(st.floats(0.1, 10), st.booleans(), st.booleans(), st.integers(0, 2), st.floats(0, 10))


@given(st.lists(SIGHTS, min_size=1))
def test_time_left_never_grows_but_by_progress_or_work(looks: list[tuple[float, bool, bool, int, float]]) -> None:
    progress = Progress(START)
    for gap_s, answered, busy, mark, cpu_s in looks:
        before = progress
        sight = replace(
            START,
            at=before.last.at + gap_s,
            answered=answered,
            busy=busy,
            marks=(float(mark), 1.0),
            cpu_s=before.last.cpu_s + cpu_s,
        )
        progress = before.look(sight)
        rested = answered and not busy
        if sight.marks == before.last.marks and not rested:
            assert progress.still_s > before.still_s
            assert progress.dead_s <= before.dead_s + LONGEST_GAP_S
        else:
            assert (progress.still_s, progress.dead_s) == (0, 0)
