"""Progress for people: a bar on a terminal, plain lines in a pipe, JSON events for machines."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0
KNOWN_SHARE = 0.05
"""Before this share is done the time left is a guess."""


class Reporter(Protocol):
    """Who is told how a build goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Something happened, in words."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` compile steps are done."""


class BarReporter:
    """A bar with step, percent and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._progress.add_task("compiling llama-server", total=None, visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def step(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total, visible=True)


class PlainReporter:
    """A line at the start, every ten seconds, and at the end."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def step(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._began = self._began or now
        if now - self._last < PLAIN_EVERY_S and done < total:
            return
        self._last = now
        left_s = (now - self._began) * (total - done) / max(done, 1)
        left = f", {left_s:.0f} s left" if done > total * KNOWN_SHARE else ""
        self.say(f"compiling llama-server: {done} of {total} ({100 * done // total} %){left}")


class JsonReporter:
    """One JSON object a line on stdout."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, text: str) -> None:
        print(json.dumps({"event": "message", "text": text}), flush=True)

    def step(self, done: int, total: int) -> None:
        print(json.dumps({"event": "step", "done": done, "total": total}), flush=True)
