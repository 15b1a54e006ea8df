"""The floor: bytes passed on between a client and the engine, in Python, with no HTTP at all.

It checks nothing, counts nothing and knows no requests. What a proxy on this event loop costs beyond this is its own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One end of a pair; what comes in here goes out there."""

    def __init__(self, other: End | None = None) -> None:
        self.other = other
        self.early = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)
        elif self.other:
            self.other.early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.other and self.other.transport:
            self.other.transport.abort()


class Client(End):
    """The client's end, which opens the engine's."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self._engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self.other = other = End(self)
        self._connecting = loop.create_task(loop.create_unix_connection(lambda: other, self._engine))


async def serve(port: int, engine: str) -> None:
    """Listen until killed."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Client(engine), "127.0.0.1", port, backlog=1024):
        await asyncio.Event().wait()


def main() -> None:
    """Command line: our port, the engine's Unix socket."""
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
