"""What is known of a service that is watched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from runner_supervisor.errors import NotRunningError, RunnerError
from runner_supervisor.remote import Event, Remote, events_of
from runner_supervisor.watch import KEPT_LINES, LOST, RESTARTED, View, follow


def hello(run: str = "a", history: list[list[float]] | None = None) -> Event:
    return Event("hello", f"{run}-0", {"run": run, "version": "1", "may_act": True, "history": history or [[]] * 6})


def now(at: float, in_flight: int = 0) -> Event:
    return Event("now", "a-0", {"sample": [at, 0.0, None, None, in_flight, 0]})


def heard(*events: Event) -> View:
    view = View()
    for event in events:
        view = view.after(event)
    return view


class Scripted:
    """Stands in for a Remote: each time it is asked, the next script."""

    def __init__(self, *scripts: list[Event | RunnerError]) -> None:
        self.scripts = list(scripts)
        self.last_ids: list[str] = []

    def events(self, *, last_id: str) -> Iterator[Event]:
        self.last_ids.append(last_id)
        for each in self.scripts.pop(0):
            if isinstance(each, RunnerError):
                raise each
            yield each


def test_the_past_comes_with_the_greeting() -> None:
    view = heard(hello(history=[[1.0, 2.0], [5.0, 6.0], [0.0, 0.0], [0.0, 0.0], [1.0, 3.0], [0.0, 0.0]]))
    assert [(each.at, each.in_flight) for each in view.samples] == [(1.0, 1.0), (2.0, 3.0)]


def test_a_second_that_is_told_twice_counts_once() -> None:
    view = heard(hello(), now(1.0), now(2.0, in_flight=1), now(2.0, in_flight=2))
    assert [each.in_flight for each in view.samples] == [0, 2]


def test_the_last_lines_are_kept() -> None:
    lines = [{"number": number} for number in range(KEPT_LINES + 5)]
    view = heard(hello(), Event("log", "a-1", lines[:10]), Event("log", "a-2", lines[10:]))
    assert [each["number"] for each in view.lines] == list(range(5, KEPT_LINES + 5))


def test_a_lost_supervisor_is_said_until_it_is_heard_again() -> None:
    gone = heard(hello(), now(1.0), Event(LOST, "a-0", "none runs"))
    assert gone.lost == "none runs"
    assert gone.now is not None
    same = gone.after(hello())
    assert (same.lost, same.notice) == ("", "")
    another = gone.after(hello("b"))
    assert (another.lost, another.notice) == ("", RESTARTED)


def test_who_was_never_heard_of_is_not_waited_for() -> None:
    remote = Scripted([NotRunningError("none")])
    with pytest.raises(NotRunningError):
        next(follow(cast("Remote", remote)))


def test_who_was_heard_of_is_waited_for_and_asked_for_what_was_missed() -> None:
    remote = Scripted([hello(), now(1.0)], [NotRunningError("none")], [RunnerError("starting")], [hello("b")])
    pauses: list[float] = []
    following = follow(cast("Remote", remote), pause=pauses.append)
    told = [next(following) for _ in range(6)]
    assert [each.name for each in told] == ["hello", "now", LOST, LOST, LOST, "hello"]
    assert [each.data for each in told[2:5]] == ["the supervisor has ended", "none", "starting"]
    assert remote.last_ids == ["", "a-0", "a-0", "a-0"]
    assert len(pauses) == 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    text = (
        'event: log\nid: a-1\ndata: ["a: b \u2028 \x85"]\n\nevent: now\nid: a-2\ndata: {"x":1}\n\nevent: no'.encode()
    )
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    expected: list[Any] = [Event("log", "a-1", ["a: b \u2028 \x85"]), Event("now", "a-2", {"x": 1})]
    assert list(events_of(pieces)) == expected
