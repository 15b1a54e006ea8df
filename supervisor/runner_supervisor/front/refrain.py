"""Heads that come again and again, the same but for the length of the body, and need not be parsed again.

Clients repeat their heads on each connection, and so does the engine. What a parser made of a head holds for any
other that has the same bytes but for the digits of its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DIGITS: Final = 15
"""As many digits of a length as are looked at."""

BLANK: Final = b"\r\n\r\n"

LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d{1,%d})\r\n" % DIGITS, re.IGNORECASE)

OTHER: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Refrain:
    """A head around the digits of its length: what comes `before` them, and `after`."""

    before: bytes
    after: bytes

    def find(self, data: bytes) -> tuple[int, int]:
        """Where the body begins in data that begins with this head, and how long it is; `OTHER`: that is another."""
        before, after = self.before, self.after
        start = len(before)
        stop = data.find(b"\r", start, start + DIGITS + 1)
        if not (data.startswith(before) and data.startswith(after, stop)):
            return OTHER
        digits = data[start:stop]
        return (stop + len(after), int(digits)) if digits.isdigit() else OTHER


def refrain_in(data: bytes) -> Refrain | None:
    """The refrain that data may begin with; None: no head is whole there, or its body has no length.

    The one parser that says what it means takes no head with other line ends, so this is where it ends.
    """
    end = data.find(BLANK)
    return refrain_of(data[: end + len(BLANK)]) if end >= 0 else None


def refrain_of(head: bytes) -> Refrain | None:
    """The refrain that a head may turn out to be; None: its body has no length."""
    found = LENGTH.search(head)
    return Refrain(head[: found.start(1)], head[found.end(1) :]) if found else None
