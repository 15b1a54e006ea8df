"""The audit log: who asked for what, when, and what it came to. No content, no secret, nothing a client made up but
for the model's name and the request's id.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import orjson

from runner_supervisor.front.scribe import END_S, Scribe
from runner_supervisor.rotating import RotatingFile

MOST_ENTRIES = 10_000
TEXT_CHARACTERS = 128

OTHER = "other"
"""The path of requests that no route is for: what strangers try is not repeated."""

ANSWERED = "answered"
ABANDONED = "abandoned"
"""The client left."""
BROKEN = "broken"
"""The answer broke off: the engine ended."""
CANCELLED = "cancelled"
"""An operator ended it."""


def refused(code: str) -> str:
    """The outcome of a request that the front refused, with the code of its error body."""
    return f"refused:{code}"


class Entry(NamedTuple):
    """One request. A tuple, as it is made for every one of them and costs a fifth of a frozen dataclass.

    `time_s`: when its head came, in seconds since the epoch. `key`, `key_name`: the id and name of its key, if it had
    a valid one. `path`: its route, or `OTHER`. `model`: the one asked for, as far as is known. `ms`: from its head to
    the end of its answer; `queue_ms`: of that, waiting for a slot; `ttft_ms`: until the answer's first byte.
    `outcome`: ANSWERED, ABANDONED, BROKEN, CANCELLED or `refused(code)`.
    """

    time_s: float
    request_id: bytes
    key: str | None
    key_name: str | None
    address: str
    method: str
    path: str
    status: int | None
    outcome: str
    ms: float
    model: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None


class AuditLog:
    """Writes entries to a file in the background."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            ConfigError: it cannot be written.
        """
        self._scribe: Scribe[Entry] = Scribe(
            RotatingFile(path), encode=line, missing=_missing, most_items=MOST_ENTRIES
        )
        self.record = self._scribe.add
        """Have an entry written. Never waits; costs well under a microsecond."""

    def close(self, within_s: float = END_S) -> None:
        """Write what waits, within so many seconds, and close the file."""
        self._scribe.close(within_s)


def line(entry: Entry) -> bytes:
    """An entry as one line of JSON, without its end."""
    return orjson.dumps(
        {
            "time": rfc3339(entry.time_s),
            "request_id": entry.request_id.decode("ascii", "replace"),
            "key": entry.key,
            "key_name": _text(entry.key_name),
            "address": _text(entry.address),
            "method": _text(entry.method),
            "path": entry.path,
            "model": _text(entry.model),
            "status": entry.status,
            "prompt_tokens": entry.prompt_tokens,
            "cached_tokens": entry.cached_tokens,
            "generated_tokens": entry.generated_tokens,
            "ms": _rounded(entry.ms),
            "queue_ms": _rounded(entry.queue_ms),
            "ttft_ms": _rounded(entry.ttft_ms),
            "outcome": entry.outcome,
        }
    )


def level_of(written: str) -> str:
    """The level of a line of the audit log, as other logs have them."""
    for level, outcomes in _LEVELS.items():
        if any(outcome in written for outcome in outcomes):
            return level
    return "info"


def rfc3339(time_s: float) -> str:
    """A time in seconds since the epoch as RFC 3339 has it, in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _missing(count: int) -> bytes:
    return orjson.dumps({"time": rfc3339(time.time()), "outcome": "dropped", "dropped": count})


def _text(value: str | None) -> str | None:
    """Text from outside, of bounded length, without what a terminal would act on."""
    if value is None:
        return None
    cut = value[:TEXT_CHARACTERS]
    return cut if cut.isprintable() else cut.encode("ascii", "backslashreplace").decode().translate(_NO_CONTROLS)


_LEVELS = {
    "error": ('"outcome":"broken"', '"outcome":"dropped"'),
    "warning": ('"outcome":"refused:', '"outcome":"cancelled"'),
}
_NO_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
