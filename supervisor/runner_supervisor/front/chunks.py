"""Chunks of an answer's body (RFC 9112, section 7.1), as llama-server frames them: one for each event of a stream."""

from __future__ import annotations

from typing import Final

SHORT_BYTES: Final = 2048
"""What may be longer than this is left to a parser."""

NEVER: Final = b"\n" * (SHORT_BYTES + 1)
"""Nothing that is short begins like this."""


def _beginnings() -> tuple[bytes, ...]:
    beginnings = [NEVER] * (SHORT_BYTES + 1)
    for size in range(1, SHORT_BYTES):
        line = b"%x\r\n" % size
        whole = len(line) + size + len(b"\r\n")
        if whole <= SHORT_BYTES:
            beginnings[whole] = line
    return tuple(beginnings)


_BEGINNINGS: Final = _beginnings()
"""How a chunk begins, by the length of all of it in bytes."""


def is_chunk(data: bytes) -> bool:
    """Whether this is one whole chunk as llama-server writes it, and not the last one."""
    size = len(data)
    return size <= SHORT_BYTES and data.startswith(_BEGINNINGS[size]) and data.endswith(b"\r\n")


def ends_between(data: bytes) -> bool:
    """Whether this, which begins where a chunk does, ends where one ends, and is not the body's end. False, too,
    where that would take long to find out.
    """
    if len(data) > SHORT_BYTES:
        return False
    at = 0
    while at < len(data):
        line_end = data.find(b"\r\n", at)
        try:
            size = int(data[at:line_end], 16) if line_end > at else 0
        except ValueError:  # an extension
            return False
        if size <= 0:
            return False
        at = line_end + 2 + size + 2
    return at == len(data)
