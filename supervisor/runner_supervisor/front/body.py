"""A request's body, and what it must be before it goes to the engine: JSON, and an object, where that is parsed.

llama-server answers malformed JSON with 500 (tools/server/server-http.cpp, its exception handler), which reads
as a fault of the server's and invites clients to try again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from runner_supervisor.front.backend import Backend
from runner_supervisor.front.message import Head
from runner_supervisor.front.replies import BODY_TOO_LARGE, BUFFERS_FULL, Refusal

UTF8_BOM: Final = b"\xef\xbb\xbf"
"""The engine's parser takes it, and trailing NULs, as some clients send them."""

MOST_ANSWERS: Final = 1024
"""More than the engine has slots for, whatever somebody asks for."""

CHECKED_BYTES: Final = 1 << 20
"""Longer bodies are left to the engine, unless their key's tokens are limited: parsing one holds everybody else up
for milliseconds."""


class Answers(NamedTuple):
    """How many answers a request asks for: `copies` (`n`, or `n_cmpl`; 0: nobody knows) to each of its `prompts`."""

    prompts: int = 1
    copies: int = 1


ONE: Final = Answers()
UNREAD: Final = Answers(copies=0)
"""Of a body that was not parsed."""


class Body:
    """A request's body, collected before the engine is asked. `size`: its bytes so far."""

    __slots__ = ("_backend", "pieces", "size")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.pieces: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> Refusal | None:
        """One more piece; returns why it is one too many, if it is."""
        backend = self._backend
        self.pieces.append(data)
        self.size += len(data)
        backend.buffered_bytes += len(data)
        if self.size > backend.max_body_bytes:
            return BODY_TOO_LARGE
        return BUFFERS_FULL if backend.buffered_bytes > backend.max_buffered_bytes else None

    def whole(self) -> bytes:
        """All of it in one piece."""
        if len(self.pieces) > 1:
            self.pieces = [b"".join(self.pieces)]
        return self.pieces[0] if self.pieces else b""

    def drop(self) -> None:
        """It is not needed any more."""
        self._backend.buffered_bytes -= self.size
        self.size = 0
        self.pieces.clear()


def check_body(head: Head, body: bytes) -> tuple[Refusal | None, Answers]:
    """Why this body cannot be served, or None; and how many answers it asks for at once.

    What is nested more than 1024 levels deep is refused too: nobody means that, and what the engine does with it
    later (writing it out again, templates) goes as deep on its stack.
    """
    if head.method != b"POST" or not head.route.json:
        return None, ONE
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            parsed = orjson.loads(body.removeprefix(UTF8_BOM).rstrip(b"\0"))
        except orjson.JSONDecodeError as error:
            return Refusal(400, "invalid_json", f"The request body is not valid JSON: {error}."), ONE
    if not isinstance(parsed, dict):
        return Refusal(400, "invalid_json", "The request body must be a JSON object."), ONE
    return None, _answers(parsed)


def _answers(asked: dict[str, Any]) -> Answers:
    """How many answers are asked for. A list with a number in it is one prompt of tokens
    (tools/server/server-common.cpp, `tokenize_input_prompts`).
    """
    prompts = asked.get("prompt")
    if not isinstance(prompts, list) and "n" not in asked and "n_cmpl" not in asked:
        return ONE
    wanted = [number for name in ("n", "n_cmpl") if isinstance(number := asked.get(name), (int, float))]
    copies = int(min(max([1, *wanted]), MOST_ANSWERS))  # the engine takes 2.0 and true for numbers, too
    if not isinstance(prompts, list) or any(isinstance(part, int) for part in prompts):
        return Answers(copies=copies)
    return Answers(min(max(1, len(prompts)), MOST_ANSWERS), copies)
