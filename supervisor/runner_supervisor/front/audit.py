"""The audit log: who asked for what, when, and what it came to. No content, no secret, nothing a client made up but
for the model's name and the request's id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from runner_supervisor.front.scribe import END_S, Scribe
from runner_supervisor.logformat import FIELDS, REQUESTS
from runner_supervisor.rotating import RotatingFile

requests = logging.getLogger(REQUESTS)

MOST_ENTRIES: Final = 10_000
TEXT_CHARACTERS: Final = 128

REMEMBERED: Final = 4096
"""Of how many texts it is remembered what they look like as JSON: names, routes, addresses."""

NULL: Final = b"null"
LINE: Final = (
    b'{"time":"%b","request_id":"%b","key":%b,"key_name":%b,"address":%b,"method":%b,"path":%b,"model":%b,"status":%b,'
    b'"prompt_tokens":%b,"cached_tokens":%b,"generated_tokens":%b,"ms":%.1f,"queue_ms":%b,"ttft_ms":%b,"outcome":%b}'
)

OTHER: Final = "other"
"""The path of requests that no route is for: what strangers try is not repeated."""

ANSWERED: Final = "answered"
ABANDONED: Final = "abandoned"
"""The client left."""
BROKEN: Final = "broken"
"""The answer broke off: the engine ended."""
CANCELLED: Final = "cancelled"
"""An operator ended it."""


def refused(code: str) -> str:
    """The outcome of a request that the front refused, with the code of its error body."""
    return f"refused:{code}"


class Entry(NamedTuple):
    """One request. A tuple, as it is made for every one of them and costs a fifth of a frozen dataclass.

    `time_s`: when its head came, in seconds since the epoch. `request_id`: as `front.requestids` lets it be. `key`,
    `key_name`: the id and name of its key, if it had a valid one. `path`: its route, or `OTHER`. `model`: the one
    asked for, as far as is known. `ms`: from its head to the end of its answer; `queue_ms`: of that, waiting for a
    slot; `ttft_ms`: until the answer's first byte.
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
        self._scribe: Scribe[bytes] = Scribe(
            RotatingFile(path), encode=None, missing=_missing, most_items=MOST_ENTRIES, also=_log_too
        )

    def record(self, entry: Entry) -> None:
        """Have an entry written. Never waits.

        It is made a line of at once: done in the scribe's thread, that would keep the event loop waiting for Python's
        lock, which costs it several times as much.
        """
        self._scribe.add(line(entry))

    def close(self, within_s: float = END_S) -> None:
        """Write what waits, within so many seconds, and close the file."""
        self._scribe.close(within_s)


def line(entry: Entry) -> bytes:
    """An entry as one line of JSON, without its end."""
    (time_s, request_id, key, key_name, address, method, path, status, outcome, ms, model,
     prompt_tokens, cached_tokens, generated_tokens, queue_ms, ttft_ms) = entry  # fmt: skip
    second = int(time_s)
    return LINE % (
        b"%b.%03dZ" % (_to_the_second(second), 1000 * (time_s - second)),
        request_id,
        _quoted(key),
        _quoted(key_name),
        _quoted(address),
        _quoted(method),
        _quoted(path),
        _quoted(model),
        _number(status),
        _number(prompt_tokens),
        _number(cached_tokens),
        _number(generated_tokens),
        ms,
        _rounded(queue_ms),
        _rounded(ttft_ms),
        _quoted(outcome),
    )


def _log_too(lines: Sequence[bytes]) -> None:
    """Log requests, too, where that was asked for; called in the scribe's thread."""
    if requests.isEnabledFor(logging.INFO):
        for written in lines:
            fields = orjson.loads(written)
            requests.info("%s", summary(fields), extra={FIELDS: fields})


def summary(fields: Mapping[str, Any]) -> str:
    """A line of the audit log, for people."""
    tokens = f", {fields['prompt_tokens']}+{fields['generated_tokens']} tokens" if fields["prompt_tokens"] else ""
    first = "" if fields["ttft_ms"] is None else f", first byte after {fields['ttft_ms']:.0f} ms"
    return (
        f"{fields['method']} {fields['path']} {fields['status'] or '-'} {fields['outcome']}, {fields['ms']:.0f} ms"
        f"{first}{tokens}, key {fields['key'] or '-'}, request {fields['request_id']}"
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


@lru_cache(maxsize=2)
def _to_the_second(time_s: int) -> bytes:
    return datetime.fromtimestamp(time_s, UTC).isoformat().removesuffix("+00:00").encode()


def _missing(count: int) -> bytes:
    return orjson.dumps({"time": rfc3339(time.time()), "outcome": "dropped", "dropped": count})


@lru_cache(maxsize=REMEMBERED)
def _quoted(value: str | None) -> bytes:
    """Text from outside as JSON, of bounded length, without what a terminal would act on."""
    if value is None:
        return NULL
    cut = value[:TEXT_CHARACTERS]
    return orjson.dumps(
        cut if cut.isprintable() else cut.encode("ascii", "backslashreplace").decode().translate(_NO_CONTROLS)
    )


def _number(value: int | None) -> bytes:
    return NULL if value is None else b"%d" % value


def _rounded(value: float | None) -> bytes:
    return NULL if value is None else b"%.1f" % value


_LEVELS: Final = {
    "error": ('"outcome":"broken"', '"outcome":"dropped"'),
    "warning": ('"outcome":"refused:', '"outcome":"cancelled"'),
}
_NO_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
