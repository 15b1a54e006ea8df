"""llama-server's output: from its pipe to lines, to a ring for status and errors, and to a rotating file."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner_supervisor.rotating import RotatingFile

RING_LINES = 2_000
LAST_LINES = 20
LINE_BYTES = 16 * 1024

LEVELS = {"D": "debug", "I": "info", "W": "warning", "E": "error"}
"""The level letters of its lines (common/log.cpp)."""

OWN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) ")
"""How a line of the supervisor's own log begins."""

STAMPED = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} ([DIWE]) (.*)")
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:[^\s'\"():,]+/)*")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of llama-server's: its `level`, and what it says."""

    level: str
    text: str


def parse(line: str) -> Line:
    """Read a line: `0.00.001.717 E srv  load_model: ...` is time since start, level, text.

    Older parts of it print plain lines; those that begin with `error` are errors.
    """
    stamped = STAMPED.fullmatch(line)
    if stamped:
        level, text = stamped.groups()
        return Line(LEVELS[level], text)
    return Line("error" if line.startswith(("error:", "error while")) else "info", line)


def level_of(line: str) -> str:
    """The level of a line of llama-server's log, or of the supervisor's own."""
    own = OWN.match(line)
    return own[1].lower() if own else parse(line).level


def without_paths(text: str) -> str:
    """A line fit for strangers: of absolute paths the file's name alone is left."""
    return ABSOLUTE.sub("", text)


class EngineLog:
    """Keeps the last lines in memory and all of them in a rotating file, of one process after another.

    `listeners` are told each line, and must not block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[str], None]] = []
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._file = RotatingFile(path)

    def add(self, line: str) -> None:
        """Keep one line (without its end)."""
        self._ring.append(line)
        self._file.write(f"{line}\n".encode())
        for listener in self.listeners:
            listener(line)

    def begin_run(self, name: str) -> RunLog:
        """A new process begins: its lines count time from its own start, so a line says when that was."""
        self.add(f"--- {name} starts, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        return RunLog(self)

    def tail(self, count: int) -> list[str]:
        """The last `count` lines, oldest first."""
        return list(self._ring)[-count:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """What one process has said. `lines`: how many lines so far, which move while it loads."""

    def __init__(self, log: EngineLog) -> None:
        self.lines = 0
        self._log = log
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    def add(self, line: str) -> None:
        """Keep one line (without its end)."""
        self.lines += 1
        self._last.append(line)
        self._log.add(line)

    def tail(self, count: int) -> list[str]:
        """The last `count` lines of all processes so far, oldest first."""
        return self._log.tail(count)

    @property
    def last(self) -> tuple[str, ...]:
        """Its last lines, oldest first."""
        return tuple(self._last)


def first_error(lines: tuple[str, ...]) -> str | None:
    """The first error among the last lines, without its time stamp: the cause, and not what followed from it
    ("exiting due to model loading error").
    """
    return next((parsed.text for parsed in map(parse, lines) if parsed.level == "error"), None)


class LinePump(asyncio.Protocol):
    """Cuts a pipe's bytes into lines for a `RunLog`. Over-long lines are cut, never kept whole."""

    def __init__(self, log: RunLog, closed: asyncio.Event) -> None:
        self._log = log
        self._closed = closed
        self._partial = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._add(line)
        if len(self._partial) > LINE_BYTES:
            self._add(self._partial)
            self._partial = b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._partial:
            self._add(self._partial)
        self._closed.set()

    def _add(self, line: bytes) -> None:
        self._log.add(line[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r"))
