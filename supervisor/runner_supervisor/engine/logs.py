"""llama-server's output: from its pipe to lines, to a ring for error messages and a rotating file."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
from collections import deque
from pathlib import Path

RING_LINES = 2_000
LAST_LINES = 20
LINE_BYTES = 16 * 1024
FILE_BYTES = 10 * 1024 * 1024
FILE_COUNT = 5


class EngineLog:
    """Keeps the last lines in memory and all of them in a rotating file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ring: deque[str] = deque(maxlen=RING_LINES)
        self._run_lines = 0
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=FILE_BYTES, backupCount=FILE_COUNT - 1, encoding="utf-8"
        )

    def add(self, line: str) -> None:
        """Keep one line (without its end)."""
        self._ring.append(line)
        self._run_lines += 1
        self._file.emit(logging.makeLogRecord({"msg": "%s", "args": (line,)}))

    def begin_run(self) -> None:
        """A new process begins: what came before is not its own."""
        self._run_lines = 0

    def tail(self, count: int) -> list[str]:
        """The last `count` lines, oldest first."""
        return list(self._ring)[-count:]

    def last_error(self) -> str | None:
        """The first error line among the last lines of this run, without its time stamp: the cause, and not what
        followed from it ("exiting due to model loading error").

        Its lines read `0.00.001.717 E srv  load_model: ...`: time, level, source (common/log.cpp). Older
        parts of it print plain `error: ...` lines.
        """
        for line in self.tail(min(self._run_lines, LAST_LINES)) if self._run_lines else ():
            fields = line.split(maxsplit=2)
            if len(fields) == 3 and fields[1] == "E":
                return fields[2]
            if line.startswith(("error:", "error while")):
                return line
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LinePump(asyncio.Protocol):
    """Cuts a pipe's bytes into lines for an `EngineLog`. Over-long lines are cut, never kept whole."""

    def __init__(self, log: EngineLog, closed: asyncio.Event) -> None:
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
