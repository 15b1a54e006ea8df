"""How long the rest of a compile takes."""

from __future__ import annotations

import pytest

from runner_builders.pace import Pace, durations

STEPS = ["a.o", "b.o", "c.o", "server"]


def test_without_a_past_all_steps_weigh_the_same() -> None:
    pace = Pace(STEPS, took_s={})
    assert pace.left_s(0.0) is None
    pace.done("a.o")
    assert pace.left_s(10.0) == pytest.approx(30.0)


def test_steps_weigh_what_they_took_before_and_new_ones_what_is_usual() -> None:
    pace = Pace(STEPS, took_s={"a.o": 1.0, "b.o": 1.0, "server": 10.0, "gone.o": 100.0})
    pace.done("a.o")
    pace.done("b.o")
    assert pace.left_s(4.0) == pytest.approx(4.0 * (10.0 + 4.0) / 2.0)
    pace.done("c.o")
    pace.done("server")
    assert pace.left_s(33.0) == 0.0


def test_a_step_that_nobody_announced_changes_nothing() -> None:
    pace = Pace(STEPS, took_s={})
    pace.done("a.o")
    pace.done("surprise.o")
    pace.done("a.o")
    assert pace.left_s(10.0) == pytest.approx(30.0)


def test_with_nothing_to_do_nothing_is_told() -> None:
    assert Pace([], took_s={}).left_s(1.0) is None


def test_ninjas_log_says_what_steps_took() -> None:
    log = ["# ninja log v7", "100\t2600\t1700000000\tsrc/a.o\tabc", "0\t100\t1700000000\tb.o\tdef", "cut off\t1"]
    assert durations(log) == {"src/a.o": 2.5, "b.o": 0.1}
