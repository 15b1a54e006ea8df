"""`status --watch`: a page on a terminal, a line a second in a pipe, or lines of JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from runner_supervisor import show
from runner_supervisor.engine.sizing import mib
from runner_supervisor.front.pages.history import Sample
from runner_supervisor.remote import Event
from runner_supervisor.watch import View

WINDOW_S = 300
MOST_COLUMNS = WINDOW_S // 2
"""Of a chart: with less than two seconds in each, some would have none."""

BARS = "▁▂▃▄▅▆▇█"
WIDE = 90
"""Columns from which on a terminal has room for all there is to say of a request."""

LABEL = 9
SCALE = 17
"""Widths beside a chart: of its name, and of its figures."""

MOST_REQUESTS = 8
MOST_HAPPENINGS = 4
LEAST_LINES = 3
COLOURS = {"ready": "green", "failed": "red", "backoff": "red"}
PHASE_COLOURS = {"queued": "yellow", "prefill": "dim", "streaming": "green"}
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


class Page:
    """The view as a page, as wide and as high as the terminal is at the moment."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, width = self._view, options.max_width
        upper = Group(*_upper(view, width=width))
        yield upper
        room = options.size.height - len(console.render_lines(upper, options, pad=False)) - 1
        yield Rule("last log lines", style="dim", align="left")
        for line in view.lines[-max(room, LEAST_LINES) :]:
            yield _log_line(line)


def watch(events: Iterable[Event], *, as_json: bool) -> None:
    """Show what comes, until Ctrl-C or the events' end."""
    try:
        if as_json:
            for event in events:
                show.out.print(json.dumps(as_object(event)), highlight=False, markup=False)
        elif show.out.is_terminal and not show.out.is_dumb_terminal:
            _on_terminal(events)
        else:
            view = View()
            for event in events:
                view = view.after(event)
                if event.name in {"now", "lost"}:
                    show.out.print(plain_line(view, at=time.time()), highlight=False, markup=False)
    except KeyboardInterrupt:
        return


def _on_terminal(events: Iterable[Event]) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaving the terminal as it was
    console, view = Console(), View()
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        for event in events:
            view = view.after(event)
            live.update(Page(view), refresh=event.name != "hello")


def as_object(event: Event) -> dict[str, Any]:
    """An event as a line of JSON has it: samples with the names of their fields, and without the past."""
    data = event.data
    if event.name == "now":
        data = {**data, "sample": Sample._make(data["sample"])._asdict()}
    elif event.name == "hello":
        data = {name: value for name, value in data.items() if name != "history"}
    return {"event": event.name, "data": data}


def plain_line(view: View, *, at: float) -> str:
    """The service in one line. `at`: seconds since the epoch."""
    if view.lost or view.now is None:
        return f"{_clock(at)} reconnecting: {view.lost}"
    now, engine, sample = view.now, view.now["engine"], Sample._make(view.now["sample"])
    told = (
        f"{_state(now)} for {span(engine['age_s'])}",
        f"{sample.tokens_per_s:.1f} tokens/s",
        f"ttft p50 {_ms(sample.ttft_p50_ms)} p95 {_ms(sample.ttft_p95_ms)}",
        f"{sample.in_flight} in flight, {sample.queued} queued",
        f"slots {now['slots_busy']}/{now['slots']}",
        f"memory {mib(engine['memory_bytes'])} of {mib(engine['needed_bytes'])}",
        f"restarts {engine['restarts']}",
        f"up {span(now['uptime_s'])}",
    )
    return f"{_clock(sample.at)} {'; '.join(told)}"


def _upper(view: View, *, width: int) -> Iterable[RenderableType]:
    """All above the log."""
    if view.now is None:
        yield Text(view.lost or "connecting")
        return
    now = view.now
    yield _headline(view, now)
    if view.lost:
        yield Text(f"reconnecting: {printable(view.lost)}", style="yellow")
    elif view.notice:
        yield Text(view.notice, style="yellow")
    yield _facts(now)
    yield Rule(f"last {WINDOW_S // 60} minutes: now / at most", style="dim", align="left")
    yield from _charts(view.samples, width=width)
    yield Rule("requests at work", style="dim", align="left")
    yield _requests(now, wide=width >= WIDE)
    yield Rule("restarts and changes", style="dim", align="left")
    yield from _happenings(now["happenings"])


def _headline(view: View, now: dict[str, Any]) -> Text:
    state = "gone" if view.lost else _state(now)
    colour = "red" if view.lost else "yellow" if now["draining"] else COLOURS.get(state, "yellow")
    retry = now["engine"]["retry_in_s"]
    since = f" for {span(now['engine']['age_s'])}" + (f", next start in {span(retry)}" if retry is not None else "")
    return Text.assemble(
        (f"● {state.upper()}", f"bold {colour}"),
        "" if view.lost else since,
        (f"   runner-supervisor {view.version}, up {span(now['uptime_s'])}", "dim"),
    )


def _facts(now: dict[str, Any]) -> Table:
    engine, sample = now["engine"], Sample._make(now["sample"])
    memory = f"{mib(engine['memory_bytes'])} of {mib(engine['needed_bytes'])} estimated"
    rows = [
        ("model", f"{engine['model']} ({engine['backend']}, llama.cpp {engine['commit'][:9]})"),
        ("memory", "; ".join([memory, *engine["lowered"]])),
        ("slots", f"{now['slots_busy']} of {now['slots']} busy"),
        ("queue", f"{sample.queued} waiting, {sample.in_flight} in flight in all"),
        ("restarts", str(engine["restarts"])),
    ]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL)
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(printable(value)))
    return grid


def _charts(samples: Sequence[Sample], *, width: int) -> Iterable[Text]:
    at = [each.at for each in samples]
    for name, figures, unit in (
        ("tokens/s", [each.tokens_per_s for each in samples], ""),
        ("ttft p50", [each.ttft_p50_ms for each in samples], " ms"),
        ("ttft p95", [each.ttft_p95_ms for each in samples], " ms"),
        ("in flight", [float(each.in_flight) for each in samples], ""),
    ):
        columns = min(max(1, width - LABEL - SCALE - 2), MOST_COLUMNS)
        buckets = averages(at, figures, columns=columns, window_s=WINDOW_S)
        most = max((each for each in buckets if each is not None), default=None)
        latest = figures[-1] if figures else None  # a supervisor that has just started has no past
        scale = f"{_figure(latest)} / {_figure(most)}{unit}"
        line = Text.assemble((f"{name:<{LABEL}}", "bold"), " ", (sparkline(buckets), "cyan"), f"{scale:>{SCALE}}")
        line.no_wrap = True
        yield line


def averages(
    at: Sequence[float], figures: Sequence[float | None], *, columns: int, window_s: float
) -> list[float | None]:
    """The last `window_s` seconds in so many columns: the mean of what falls into each, None where nothing does.

    Columns begin at whole multiples of their length, so that what is past does not flicker as time goes on.

    Args:
        at: when each figure was taken, in seconds since the epoch, oldest first.
        figures: as many; None where there was none.
        columns: how many there are.
        window_s: what they span, in seconds.
    """
    length_s = window_s / columns
    last = int(at[-1] // length_s) if at else 0
    found: list[list[float]] = [[] for _ in range(columns)]
    for when, figure in zip(at, figures, strict=True):
        column = columns - 1 - (last - int(when // length_s))
        if figure is not None and 0 <= column < columns:
            found[column].append(figure)
    return [fmean(each) if each else None for each in found]


def sparkline(figures: Sequence[float | None]) -> str:
    """A bar for each figure, the highest for the greatest of them, the lowest for 0; blank for None."""
    greatest = max((each for each in figures if each is not None), default=0.0) or 1.0
    return "".join(" " if each is None else BARS[round(each / greatest * (len(BARS) - 1))] for each in figures)


def _requests(now: dict[str, Any], *, wide: bool) -> RenderableType:
    seen = now["requests"]
    if not seen:
        return Text("none", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("id", no_wrap=True, max_width=20 if wide else 8)
    for name in ("key", "route") if wide else ():
        table.add_column(name, no_wrap=True)
    table.add_column("phase", no_wrap=True)
    for name in ("s", "tokens", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in seen[:MOST_REQUESTS]:
        whose = (Text(printable(each["key"] or "-")), Text(printable(each["route"]))) if wide else ()
        pace = "-" if each["tokens_per_s"] is None else f"{each['tokens_per_s']:.1f}"
        phase = Text(each["phase"], style=PHASE_COLOURS[each["phase"]])
        table.add_row(
            Text(printable(each["id"])), *whose, phase, f"{each['elapsed_s']:.1f}", str(each["tokens"]), pace
        )
    more = now["more"] + max(0, len(seen) - MOST_REQUESTS)
    return Group(table, Text(f"and {more} more", style="dim")) if more else table


def _happenings(happenings: Sequence[dict[str, Any]]) -> Iterable[Text]:
    if not happenings:
        yield Text("none", style="dim")
    for each in happenings[:MOST_HAPPENINGS]:
        back = each["back_after_s"]
        served = "" if back is None else f" (served again after {span(back)})"
        yield Text(f"{_clock(each['at'])} {each['cause']}: {printable(each['detail'])}{served}")


def _log_line(line: dict[str, Any]) -> Text:
    text = f"{_clock(line['at'])} {line['source']:<6} {printable(line['text'])}"
    return Text(text, style=show.LEVEL_COLOURS.get(line["level"], ""), no_wrap=True, overflow="ellipsis")


def _state(now: dict[str, Any]) -> str:
    return "draining" if now["draining"] else str(now["engine"]["state"])


def span(seconds: float) -> str:
    """A time as people say it, in its two greatest units."""
    whole = max(0, int(seconds))
    for (unit, size), (lesser, lesser_size) in pairwise(UNITS):
        if whole >= size:
            left = whole % size // lesser_size
            return f"{whole // size} {unit}" + (f" {left} {lesser}" if left else "")
    return f"{whole} s"


def printable(text: str) -> str:
    """Text from elsewhere without what a terminal would obey."""
    return "".join(each if each.isprintable() else "·" for each in text)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f} ms"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
