"""Request ids: what a client, the logs and whoever helps call one request."""

from __future__ import annotations

import random
import re
import secrets
from typing import Final

_OWN: Final = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")


class RequestIds:
    """Makes ids: 24 hexadecimal digits, 96 bits. They are random, as a counter would tell clients of each other's
    requests; they need not be hard to guess, so the generator is a fast one.
    """

    def __init__(self) -> None:
        self._bits = random.Random(secrets.randbits(256)).getrandbits  # noqa: S311

    def next(self) -> bytes:
        """An id for one request."""
        return b"%024x" % self._bits(96)


def accept(value: bytes | None) -> bytes | None:
    """The id that a client gave its request, or None if it gave none that is fit to be written anywhere: up to 128
    letters, digits, `.`, `_`, `:` and `-`.
    """
    return value if value is not None and _OWN.fullmatch(value) else None
