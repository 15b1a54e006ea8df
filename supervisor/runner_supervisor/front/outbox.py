"""What one turn of the event loop has to say, said at its end.

Writing to a socket whose reader sleeps wakes it, and a wake-up costs more than all else that the kernel does for
a small write. A reader that finds one message handles it and sleeps again; one that finds those of a whole turn
is woken once for all.
"""

from __future__ import annotations

import asyncio

LARGE_BYTES = 16 * 1024


class Outbox:
    """Collects writes, in order, until the turn ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at the end of this turn; much data at once, so that back-pressure is felt at once."""
        if len(data) > LARGE_BYTES:
            self.write_now(transport, data)
            return
        letters = self._letters
        if not letters:
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
        for transport, data in letters:
            if not transport.is_closing():
                transport.write(data)
