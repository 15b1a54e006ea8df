"""Request ids: what a client, the logs and whoever helps call one request."""

from __future__ import annotations

import os
import re
from binascii import hexlify
from typing import Final

DIGITS: Final = 24
AT_ONCE: Final = 64

_OWN: Final = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")


class RequestIds:
    """Makes ids: 24 hexadecimal digits, 96 bits. They are random, as a counter would tell clients of each other's
    requests. Random bits are had for many at a time.
    """

    def __init__(self) -> None:
        self._digits = b""
        self._used = 0

    def next(self) -> bytes:
        """An id for one request."""
        begin = self._used
        end = begin + DIGITS
        if end > len(self._digits):
            self._digits = hexlify(os.urandom(AT_ONCE * DIGITS // 2))
            begin, end = 0, DIGITS
        self._used = end
        return self._digits[begin:end]


def accept(value: bytes | None) -> bytes | None:
    """The id that a client gave its request, or None if it gave none that is fit to be written anywhere: up to 128
    letters, digits, `.`, `_`, `:` and `-`.
    """
    return value if value is not None and _OWN.fullmatch(value) else None
