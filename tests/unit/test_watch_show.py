"""`status --watch` on terminals of all sizes, and in a pipe."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from runner_supervisor.remote import Event
from runner_supervisor.watch import LOST, View
from runner_supervisor.watch_show import Page, as_object, averages, plain_line, printable, span, sparkline, watch


def snapshot(**engine: Any) -> dict[str, Any]:
    """A second of a service that is at work. `engine`: what is another way there."""
    return {
        "sample": [1000.5, 42.0, 10.0, 250.0, 3, 1],
        "uptime_s": 3700.0,
        "draining": False,
        "engine": {
            "state": "ready",
            "age_s": 65.0,
            "pid": 7,
            "model": "demo",
            "backend": "cpu",
            "commit": "0c1e57098bba",
            "memory_bytes": 50 << 20,
            "needed_bytes": 90 << 20,
            "lowered": ["2 slots instead of 4"],
            "restarts": 2,
            "retry_in_s": None,
            **engine,
        },
        "slots": 4,
        "slots_busy": 2,
        "requests": [
            {
                "id": f"request-{number}-with-a-long-id",
                "key": "laptop",
                "route": "/v1/chat/completions",
                "phase": "streaming",
                "elapsed_s": 2.0,
                "tokens": 84,
                "tokens_per_s": 42.0,
            }
            for number in range(12)
        ],
        "more": 5,
        "happenings": [{"at": 900.0, "cause": "crash", "detail": "ended by signal 9", "back_after_s": 1.5}],
    }


def line(text: str) -> dict[str, Any]:
    return {"number": 1, "at": 1000.0, "source": "engine", "level": "info", "text": text}


def view(now: dict[str, Any] | None = None, *more: Event) -> View:
    """What is known after a greeting, a snapshot, and more."""
    greeting = {"run": "a", "version": "0.1.0", "history": [[]] * 6}
    found = View().after(Event("hello", "a-0", greeting)).after(Event("now", "a-0", now or snapshot()))
    for event in more:
        found = found.after(event)
    return found


def page(shown: View, *, width: int = 110, height: int = 50) -> list[str]:
    """The lines of the page."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(Page(shown))
    return captured.get().splitlines()


def shows(lines: list[str], *texts: str) -> bool:
    return all(any(text in each for each in lines) for text in texts)


def test_the_page_has_all_there_is_to_know() -> None:
    lines = page(view(None, Event("log", "a-1", [line("server is listening")])))
    assert "READY for 1 min 5 s" in lines[0]
    assert shows(lines, "demo (cpu, llama.cpp 0c1e57098)", "50 MiB of 90 MiB estimated; 2 slots instead of 4")
    assert shows(
        lines, "2 of 4 busy", "1 waiting, 3 in flight", "up 1 h 1 min", "tokens/s", "42 / 42", "250 / 250 ms"
    )
    assert shows(lines, "laptop", "streaming", "and 9 more", "crash: ended by signal 9 (served again after 1 s)")
    assert lines[-1].endswith("engine server is listening")


@pytest.mark.parametrize("width", [24, 40, 79, 110, 400])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = page(view(None, Event("log", "a-1", [line("long " * 100)])), width=width)
    assert max(map(len, lines)) <= width


def test_the_log_fills_what_is_left_of_the_height() -> None:
    told = Event("log", "a-1", [line(str(number)) for number in range(100)])
    assert len(page(view(None, told), height=60)) == 60


def test_narrow_terminals_get_a_requests_phase_and_pace_without_its_route() -> None:
    lines = page(view(), width=60)
    assert not shows(lines, "laptop")
    assert shows(lines, "streaming  2.0      84      42.0")


def test_an_engine_that_waits_for_its_next_start_says_when() -> None:
    assert "BACKOFF for 3 s, next start in 8 s" in page(view(snapshot(state="backoff", age_s=3, retry_in_s=8.0)))[0]


def test_a_supervisor_that_is_gone_is_said_above_what_was_known() -> None:
    lines = page(view(None, Event(LOST, "a-0", "no supervisor runs on /s")))
    assert lines[0].startswith("● GONE")
    assert lines[1] == "reconnecting: no supervisor runs on /s"
    assert shows(lines, "demo (cpu")


def test_what_others_wrote_gives_the_terminal_no_orders() -> None:
    assert not shows(page(view(None, Event("log", "a-1", [line("\x1b]0;mine\x07\x9b2J")]))), "\x1b", "\x07")
    assert printable("a\x1b[2Jb\n") == "a·[2Jb·"


def test_in_a_pipe_a_second_is_a_line() -> None:
    told = plain_line(view(), at=0.0)
    assert "\n" not in told
    assert "ready for 1 min 5 s; 42.0 tokens/s; ttft p50 10 ms p95 250 ms; 3 in flight, 1 queued; slots 2/4;" in told
    assert plain_line(view(None, Event(LOST, "a-0", "none runs")), at=0.0).endswith(" reconnecting: none runs")


def test_json_has_a_line_for_each_event_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    greeting = Event("hello", "a-0", {"run": "a", "version": "1", "history": [[1.0]] * 6})
    watch([greeting, Event("now", "a-0", snapshot()), Event(LOST, "a-0", "gone")], as_json=True)
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "hello", "data": {"run": "a", "version": "1"}}
    assert second["data"]["sample"]["tokens_per_s"] == 42.0
    assert third == {"event": "lost", "data": "gone"}


def test_samples_keep_their_names_only_in_snapshots() -> None:
    assert as_object(Event("log", "a-1", [{"text": "x"}])) == {"event": "log", "data": [{"text": "x"}]}


def test_ctrl_c_is_how_watching_ends() -> None:
    def interrupted() -> Any:
        yield Event("now", "a-0", snapshot())
        raise KeyboardInterrupt

    watch(interrupted(), as_json=False)


def test_a_column_is_the_mean_of_its_time_and_blank_without_figures() -> None:
    found = averages([100.0, 101.0, 109.0, 111.0], [2.0, 4.0, None, 8.0], columns=3, window_s=15.0)
    assert found == [3.0, None, 8.0]


def test_what_is_past_does_not_move_as_time_goes_on() -> None:
    at, figures = [100.0, 104.0, 107.0], [1.0, 2.0, 3.0]
    before = averages(at, figures, columns=4, window_s=20.0)
    assert averages([*at, 109.0], [*figures, 5.0], columns=4, window_s=20.0)[:3] == before[:3]


@pytest.mark.parametrize(
    ("figures", "drawn"), [([], ""), ([0.0, 0.0], "▁▁"), ([None, 1.0, 0.5, 0.0], " █▅▁"), ([None], " ")]
)
def test_bars_stand_between_nothing_and_the_greatest(figures: list[float | None], drawn: str) -> None:
    assert sparkline(figures) == drawn


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90000, "1 d 1 h")]
)
def test_times_are_said_in_their_two_greatest_units(seconds: float, said: str) -> None:
    assert span(seconds) == said
