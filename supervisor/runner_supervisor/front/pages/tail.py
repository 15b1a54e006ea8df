"""The last lines of both logs, llama-server's and the supervisor's, for whoever looks at the page.

Lines are numbered, so each reader keeps the number of the last one it saw and nothing is kept for it. What
llama-server writes may quote requests (docs/security.md): such lines are for administrators alone.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from runner_supervisor.engine.logs import STAMPED, EngineLog, parse, without_paths
from runner_supervisor.engine.supervisor import QUOTES
from runner_supervisor.front import strikes

KEPT_LINES = 1_000
LINE_CHARACTERS = 400

GUARDED = frozenset({QUOTES, strikes.logger.name})
"""Loggers of ours that quote an engine's last words, or tell who asked."""

TOLD_TO_ALL = frozenset({"info", "error"})
"""Levels of llama-server's that tell of its own work; warnings and debug lines may quote requests, as do lines
without a stamp."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, in which files have lost their folders. `at`: seconds since the epoch. `source`: `engine` or `front`.
    `guarded`: for administrators alone.
    """

    number: int
    at: float
    source: str
    level: str
    text: str
    guarded: bool


class LogTail(logging.Handler):
    """Hears what is logged and keeps the last lines."""

    def __init__(self, *, clock: Callable[[], float] = time.time, most: int = KEPT_LINES) -> None:
        super().__init__()
        self._clock = clock
        self._lines: deque[LogLine] = deque(maxlen=most)
        self._count = 0

    def after(self, number: int, *, guarded: bool) -> tuple[list[LogLine], int]:
        """The lines that came after that one, as far as they are still kept, oldest first; and the last one's number.

        Args:
            number: of the last line that the reader has.
            guarded: whether it may see those for administrators, too.
        """
        self.acquire()
        try:
            newer = [*takewhile(lambda line: line.number > number, reversed(self._lines))][::-1]
            last = self._count
        finally:
            self.release()
        return (newer if guarded else [line for line in newer if not line.guarded]), last

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the supervisor's own log."""
        self._add("front", record.levelname.lower(), record.getMessage(), guarded=record.name in GUARDED)

    def hear(self, line: str) -> None:
        """Keep a line of llama-server's log."""
        parsed = parse(line)
        guarded = parsed.level not in TOLD_TO_ALL or STAMPED.fullmatch(line) is None
        self._add("engine", parsed.level, parsed.text, guarded=guarded)

    def _add(self, source: str, level: str, text: str, *, guarded: bool) -> None:
        text = without_paths(text[:LINE_CHARACTERS])
        self.acquire()  # the supervisor's own lines come from several threads
        try:
            self._count += 1
            self._lines.append(LogLine(self._count, round(self._clock(), 3), source, level, text, guarded))
        finally:
            self.release()


@contextmanager
def tailing(log: EngineLog) -> Iterator[LogTail]:
    """Listen to both logs."""
    tail = LogTail()
    root = logging.getLogger()
    root.addHandler(tail)
    log.listeners.append(tail.hear)
    try:
        yield tail
    finally:
        log.listeners.remove(tail.hear)
        root.removeHandler(tail)
