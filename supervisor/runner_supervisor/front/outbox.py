"""What one turn of the event loop has to say, said at its end.

Writing to a socket whose reader sleeps wakes it, and a wake-up costs more than all else that the kernel does for
a small write. A reader that finds one message handles it and sleeps again; one that finds those of a whole turn
is woken once for all.
"""

from __future__ import annotations

import asyncio
from typing import Final

LARGE_BYTES: Final = 16 * 1024

PROBE: Final = 16
"""After a turn that had one write only, so many are made at once before it is looked again what a turn has."""


class Outbox:
    """Collects writes, in order, until the turn ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: list[tuple[asyncio.Transport, bytes]] = []
        self._at_once = 0

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at the end of this turn. At once what is large, so that back-pressure is felt, and where turns have
        had no more than one write: it would have to wait for nothing.
        """
        letters = self._letters
        if letters:
            letters.append((transport, data))
            if len(data) > LARGE_BYTES:
                self.flush()
        elif self._at_once or len(data) > LARGE_BYTES:
            self._at_once = max(0, self._at_once - 1)
            transport.write(data)
        else:
            self._loop.call_soon(self.flush)
            letters.append((transport, data))

    def write_now(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at once, after all that waits: nothing overtakes what was written before it."""
        if self._letters:
            self.flush()
        transport.write(data)

    def flush(self) -> None:
        """Write what has been collected. What has closed meanwhile is passed over."""
        letters, self._letters = self._letters, []
        if len(letters) == 1:
            self._at_once = PROBE
        for transport, data in letters:
            if not transport.is_closing():
                transport.write(data)
