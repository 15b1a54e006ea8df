"""A fast fake llama-server: what it costs to answer is little, so what a proxy adds is seen.

Started by the supervisor in llama-server's place (through LLAMA_CPP_DIR). It listens on the Unix socket that
--host names and, for direct measurements, on --tcp-port. POST /v1/completions answers 1 kB of JSON; with
`?chunks=N&delay_ms=D&` it streams N server-sent events of 200 bytes, D ms apart (0: flat out).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from typing import cast

import uvloop

CHUNK_BYTES = 200
EVENT = b"data: " + b"x" * (CHUNK_BYTES - 8) + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
FIGURES = (
    b'"usage":{"completion_tokens":9,"prompt_tokens":7,"total_tokens":16,"prompt_tokens_details":{"cached_tokens":5}},'
    b'"timings":{"cache_n":5,"prompt_n":2,"prompt_ms":1.25,"predicted_n":9,"predicted_ms":42.5}}'
)
"""Answers end with their figures, as llama-server's do."""

SMALL = (b'{"choices":[{"text":"' + b"y" * 1024)[: 1024 - len(FIGURES) - 4] + b'"}],' + FIGURES
LAST_EVENT = b'data: {"choices":[],' + FIGURES + b"\n\n"
PROPS = b'{"total_slots":1024}'


def answer(body: bytes) -> bytes:
    """A whole answer of JSON."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


SMALL_ANSWER = answer(SMALL)
PROPS_ANSWER = answer(PROPS)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"%x\r\n%b\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" % (len(LAST_EVENT), LAST_EVENT)
BURST = 64

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM = re.compile(rb"\?chunks=(\d+)&delay_ms=(\d+)&")


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._writable = True
        self._left = 0
        self._delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._left and not self._delay_s:
            self._flood()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._left = 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(self._buffer, 0, head)
        if len(self._buffer) < head + 4 + (int(length[1]) if length else 0):
            return
        stream = STREAM.search(self._buffer, 0, head)
        asks_props = self._buffer.startswith(b"GET /props ")
        self._buffer = b""
        if stream is None:
            self._transport.write(PROPS_ANSWER if asks_props else SMALL_ANSWER)
            return
        self._left, self._delay_s = int(stream[1]), int(stream[2]) / 1000
        self._transport.write(STREAM_HEAD)
        if self._delay_s:
            self._tick()
        else:
            self._flood()

    def _tick(self) -> None:
        if self._left <= 0:
            return
        self._left -= 1
        self._transport.write(CHUNK)
        if self._left:
            asyncio.get_running_loop().call_later(self._delay_s, self._tick)
        else:
            self._transport.write(STREAM_END)

    def _flood(self) -> None:
        """Each event in a write of its own, as llama-server does; other connections get their turn in between."""
        for _ in range(min(self._left, BURST)):
            if not self._writable:
                return
            self._left -= 1
            self._transport.write(CHUNK)
        if self._left:
            asyncio.get_running_loop().call_soon(self._flood)
        else:
            self._transport.write(STREAM_END)


async def serve(socket: str, tcp_port: int) -> None:
    """Listen until killed."""
    loop = asyncio.get_running_loop()
    unix = await loop.create_unix_server(Connection, socket)
    tcp = await loop.create_server(Connection, "127.0.0.1", tcp_port, backlog=1024)
    async with unix, tcp:
        await asyncio.Event().wait()


def main() -> None:
    """Command line: llama-server's flags, and --core and --tcp-port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--tcp-port", type=int)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--version", action="store_true")
    options, _ = parser.parse_known_args()
    if options.version:
        print("version: bench engine")
        return
    os.sched_setaffinity(0, {options.core})
    uvloop.run(serve(options.host, options.tcp_port))


if __name__ == "__main__":
    main()
