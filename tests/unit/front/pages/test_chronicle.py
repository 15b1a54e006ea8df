"""What happened to engines last."""

from __future__ import annotations

from dataclasses import replace

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause, Death
from runner_supervisor.core.states import State
from runner_supervisor.engine.supervisor import Transition
from runner_supervisor.front.changes import Change, Progress
from runner_supervisor.front.pages.chronicle import MOST, Chronicle

DEATH = Death(cause=Cause.CRASH, detail="signal 9", at=1.0, was_ready=True)


class Clock:
    """Says what it was told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_death_is_told_and_after_how_long_requests_were_served_again() -> None:
    clock = Clock()
    chronicle = Chronicle(None, clock=clock)
    dead = Machine(state=State.BACKOFF, last_death=DEATH)
    chronicle.hear(Transition(before=State.READY, machine=dead))
    (happening,) = chronicle.last()
    assert (happening.at, happening.cause, happening.back_after_s) == (100.0, "crash", None)
    clock.now = 102.5
    chronicle.hear(Transition(before=State.LOADING, machine=replace(dead, state=State.READY)))
    (happening,) = chronicle.last()
    assert (happening.at, happening.back_after_s) == (100.0, 2.5)


def test_a_death_that_a_follower_shows_again_is_not_told_again() -> None:
    chronicle = Chronicle(None)
    for death in (DEATH, replace(DEATH, at=2.0), DEATH):
        chronicle.hear(Transition(before=State.LOADING, machine=Machine(state=State.READY, last_death=death)))
    assert len(chronicle.last()) == 2


def test_a_death_that_was_known_before_is_not_told_again() -> None:
    chronicle = Chronicle(DEATH)
    chronicle.hear(Transition(before=State.STARTING, machine=Machine(state=State.READY, last_death=DEATH)))
    assert chronicle.last() == []


def test_a_change_is_told_once_as_far_as_it_has_come_and_without_paths() -> None:
    chronicle = Chronicle(None)
    began = Change(1, "reload", 50.0, Progress.RUNNING, "")
    for change in (None, began, began, replace(began, progress=Progress.FAILED, detail="no /home/a/b.gguf")):
        chronicle.note(change)
    (happening,) = chronicle.last()
    assert (happening.at, happening.cause, happening.detail) == (50.0, "reload", "failed: no b.gguf")


def test_the_newest_are_kept_and_come_first() -> None:
    chronicle = Chronicle(None)
    for number in range(20):
        chronicle.note(Change(number, "restart", float(number), Progress.DONE, ""))
    assert [happening.at for happening in chronicle.last()] == list(map(float, range(19, 19 - MOST, -1)))
