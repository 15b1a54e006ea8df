"""The content log: requests and answers, whole, for those who debug prompts. Off unless asked for, twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from runner_supervisor.front.audit import rfc3339
from runner_supervisor.front.scribe import END_S, Scribe
from runner_supervisor.rotating import RotatingFile

logger = logging.getLogger(__name__)

TEXT_BYTES: Final = 1024 * 1024
"""How much of a request, and of an answer, is kept, in bytes."""

FILE_BYTES: Final = 100 * 1024 * 1024
FILE_COUNT: Final = 3
MOST_CONTENTS: Final = 10_000
MOST_BYTES: Final = 64 * 1024 * 1024
"""How much may wait to be written, in bytes."""


class Kept:
    """The beginning of a body, and how long it was."""

    __slots__ = ("_pieces", "_room", "bytes", "missing")

    def __init__(self) -> None:
        self.bytes = self.missing = 0
        self._pieces: list[bytes] = []
        self._room = TEXT_BYTES

    def add(self, data: bytes) -> None:
        """One more piece."""
        taken = data[: self._room]
        if taken:
            self._pieces.append(bytes(taken))
            self._room -= len(taken)
            self.bytes += len(taken)
        self.missing += len(data) - len(taken)

    @property
    def text(self) -> str:
        """It as text; what is no UTF-8 is replaced."""
        text = b"".join(self._pieces).decode("utf-8", "replace")
        return f"{text}…truncated {self.missing} bytes" if self.missing else text


@dataclass(frozen=True, slots=True)
class Head:
    """What a line says beside the content. `time_s`: when it began, in seconds since the epoch."""

    time_s: float
    request_id: bytes
    key: str | None
    path: str


class Content:
    """The content of one request while it goes on."""

    __slots__ = ("_answer", "_head", "_request", "_write")

    def __init__(self, head: Head, write: Callable[[tuple[Head, Kept, Kept, int | None], int], None]) -> None:
        self._head = head
        self._write = write
        self._request = Kept()
        self._answer = Kept()

    def request(self, body: bytes) -> None:
        """The request's body, or one more piece of it."""
        self._request.add(body)

    def answer(self, data: bytes) -> None:
        """One more piece of the answer's body."""
        self._answer.add(data)

    def end(self, status: int | None) -> None:
        """It is over: have it written. `status`: of the answer; None: there was none."""
        self._write((self._head, self._request, self._answer, status), self._request.bytes + self._answer.bytes)


class ContentLog:
    """Writes contents to a file in the background, and warns of it."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Open the file.

        Raises:
            ConfigError: it cannot be written.
        """
        self._now = now
        self._scribe: Scribe[tuple[Head, Kept, Kept, int | None]] = Scribe(
            RotatingFile(path, most_bytes=FILE_BYTES, files=FILE_COUNT),
            encode=_line,
            missing=partial(_missing, now),
            most_items=MOST_CONTENTS,
            most_bytes=MOST_BYTES,
        )
        logger.warning(
            "THE CONTENT OF EVERY REQUEST AND ANSWER IS WRITTEN TO %s; set log_content to false to end this",
            path,
        )

    def begin(self, *, request_id: bytes, key: str | None, path: str) -> Content:
        """A request has come. `key`: its key's id; `path`: its route."""
        return Content(Head(self._now(), request_id, key, path), self._scribe.add)

    def close(self, within_s: float = END_S) -> None:
        """Write what waits, within so many seconds, and close the file."""
        self._scribe.close(within_s)


def _line(item: tuple[Head, Kept, Kept, int | None]) -> bytes:
    head, request, answer, status = item
    return orjson.dumps(
        {
            "time": rfc3339(head.time_s),
            "request_id": head.request_id.decode("ascii", "replace"),
            "key": head.key,
            "path": head.path,
            "status": status,
            "request": request.text,
            "answer": answer.text,
        }
    )


def _missing(now: Callable[[], float], count: int) -> bytes:
    return orjson.dumps({"time": rfc3339(now()), "dropped": count})
