"""Which way a client's connection is held up. In place of uvicorn's, which makes an event for each connection."""

from __future__ import annotations

import asyncio


class Flow:
    """Back-pressure on one connection: whether we read from it, and whether it takes what we write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._writable: asyncio.Event | None = None

    async def drain(self) -> None:
        """uvicorn's request cycle: wait until the client has caught up."""
        if self.write_paused:
            self._writable = self._writable or asyncio.Event()
            await self._writable.wait()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking from the client."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The client has caught up, or has gone."""
        self.write_paused = False
        if self._writable:
            self._writable.set()
            self._writable = None
