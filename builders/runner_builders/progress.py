"""Progress for people: a bar on a terminal, plain lines in a pipe, JSON events for machines."""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

PLAIN_EVERY_S = 10.0


class Phase(StrEnum):
    """What a build is at, in this order. Only compiling has steps."""

    SOURCE = "finding the source"
    CONFIGURE = "configuring"
    COMPILE = "compiling llama-server"
    VERIFY = "verifying"
    INSTALL = "installing"


class Reporter(Protocol):
    """Who is told how a build goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Something happened, in words."""

    def phase(self, phase: Phase) -> None:
        """The next phase has begun."""

    def step(self, done: int, total: int, left_s: float | None) -> None:
        """`done` of `total` compile steps are done, and the rest takes `left_s` seconds, if that can be told."""


class BarReporter:
    """What is being done; while compiling a bar with step, percent and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def phase(self, phase: Phase) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(phase, total=None, steps="")

    def step(self, done: int, total: int, left_s: float | None) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, steps=_steps(done, total, left_s))


class PlainReporter:
    """A line for each phase; while compiling one at the start, every ten seconds, and at the end."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def phase(self, phase: Phase) -> None:
        self.say(phase)

    def step(self, done: int, total: int, left_s: float | None) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY_S and done < total:
            return
        self._last = now
        self.say(f"{Phase.COMPILE}: {_steps(done, total, left_s)}")


class JsonReporter:
    """One JSON object a line on stdout."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, text: str) -> None:
        self._print({"event": "message", "text": text})

    def phase(self, phase: Phase) -> None:
        self._print({"event": "phase", "phase": phase.name.lower()})

    def step(self, done: int, total: int, left_s: float | None) -> None:
        left = None if left_s is None else round(left_s, 1)
        self._print({"event": "step", "done": done, "total": total, "left_s": left})

    def _print(self, event: dict[str, str | int | float | None]) -> None:
        print(json.dumps(event), flush=True)


def _steps(done: int, total: int, left_s: float | None) -> str:
    left = "" if left_s is None else f", {left_s:.0f} s left"
    return f"{done} of {total} ({100 * done // total} %){left}"
