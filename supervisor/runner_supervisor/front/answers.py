"""Heads of the engine's answers, and what clients get of them. The engine repeats itself, so little is read twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from runner_supervisor.front.message import HOP_BY_HOP
from runner_supervisor.front.refrain import BLANK, Refrain, refrain_of

KEPT_BACK_LINE: Final = re.compile(
    rb"\r\n(?:" + b"|".join(HOP_BY_HOP) + rb"|access-control-[a-z-]+):[^\r\n]*", re.IGNORECASE
)
"""Lines of an answer's head that stay here. llama-server lets every page of the web in, with credentials
(tools/server/server-http.cpp, `Access-Control-Allow-Origin`); who may is said by our own settings.
"""
FRAMING_LINE: Final = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.IGNORECASE)
EVENT_STREAM_LINE: Final = re.compile(rb"\r\ncontent-type: *text/event-stream", re.IGNORECASE)
CHUNKED_LINE: Final = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
CONNECTION_LINE: Final = re.compile(rb"\r\nconnection:", re.IGNORECASE)

GOOD: Final = b"HTTP/1.1 200 "
REMEMBERED: Final = 64
REMEMBERED_BYTES: Final = 4096


class AnswerHead(NamedTuple):
    """An answer's head.

    `lines`: as clients get them, without the blank one. `chunked`: the body comes in chunks. `streamed`: it is a
    stream of server-sent events.
    """

    status: int
    lines: bytes
    chunked: bool = False
    streamed: bool = False

    def with_lines(self, extra: Sequence[bytes], *, chunked: bool = True) -> bytes:
        """It as bytes, with further lines. `chunked`: whether the body's chunked framing stays."""
        lines = self.lines if chunked else FRAMING_LINE.sub(b"", self.lines)
        return b"\r\n".join([lines, *extra, b"", b""])


class Answers:
    """Reads the heads of one engine's answers."""

    def __init__(self) -> None:
        self._remembered: dict[bytes, AnswerHead] = {}
        self._refrain: Refrain | None = None
        self._lines = Refrain(b"", b"")

    def read(self, status: int, head: bytes) -> AnswerHead:
        """The meaning of a head, its blank line included, that a parser has accepted."""
        known = self._remembered.get(head)
        if known is not None:
            return known
        lines = KEPT_BACK_LINE.sub(b"", head).removesuffix(BLANK)
        chunked = CHUNKED_LINE.search(head) is not None
        read = AnswerHead(status, lines, chunked=chunked, streamed=EVENT_STREAM_LINE.search(head) is not None)
        if chunked:
            if len(head) <= REMEMBERED_BYTES and len(self._remembered) < REMEMBERED:
                self._remembered[head] = read
        elif head.startswith(GOOD) and not CONNECTION_LINE.search(head):
            self._learn(head, lines)
        return read

    def _learn(self, head: bytes, lines: bytes) -> None:
        """Remember a head whose connection stays open."""
        refrain, shown = refrain_of(head), refrain_of(lines + BLANK)
        if refrain and shown:
            self._refrain = refrain
            self._lines = Refrain(shown.before, shown.after.removesuffix(BLANK))

    def whole(self, data: bytes) -> tuple[AnswerHead, int] | None:
        """The head of a whole answer like the last one, after which the connection stays open; and where its body
        begins. None: it is no such answer, and a parser has to see it.
        """
        if self._refrain is None:
            return None
        start, length = self._refrain.find(data)
        if not start or start + length != len(data):
            return None
        return AnswerHead(200, b"%b%d%b" % (self._lines.before, length, self._lines.after)), start
