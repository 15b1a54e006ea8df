"""llama-server's resumable streams, made private to the key that began them.

A request with X-Conversation-Id leaves a stream that can be read again (GET /v1/stream?conv_id=), stopped (DELETE
there) and looked up (POST /v1/streams/lookup) by anyone who says the same id (tools/server/server-stream.cpp).
So the engine is told another id than the client says: the key's own id stands before it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode

import orjson

HEADER: Final = b"x-conversation-id"
STREAM_PATH: Final = "/v1/stream"
LOOKUP_PATH: Final = "/v1/streams/lookup"
PARAMETER: Final = "conv_id"
LENGTH_LINE: Final = re.compile(rb"(\r\ncontent-length: *)\d+", re.IGNORECASE)
ASKED: Final = "conversation_ids"
FOUND: Final = "conversation_id"


def private(owner: str, conversation: str) -> str:
    """The id that the engine is told. Key ids hold no dot, so no two keys' ids are ever the same. None stays none."""
    return f"{owner}.{conversation}" if conversation else ""


def private_header(owner: str, value: bytes) -> bytes:
    """The header's value for the engine."""
    return private(owner, value.decode("latin-1")).encode("latin-1")


def private_target(owner: str, target: bytes) -> bytes:
    """A target whose query names a conversation, for the engine. Of equal names all are rewritten."""
    path, _, query = target.partition(b"?")
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    told = [(name, private(owner, value) if name == PARAMETER else value) for name, value in pairs]
    return path + b"?" + urlencode(told, encoding="latin-1").encode()


def private_question(owner: str, body: bytes) -> bytes:
    """A lookup's body for the engine: a JSON object, of which only the ids asked for are kept."""
    try:
        asked = orjson.loads(body)[ASKED]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        asked = None
    ids = [private(owner, each) for each in asked if isinstance(each, str)] if isinstance(asked, list) else []
    return orjson.dumps({ASKED: list(dict.fromkeys(ids))})


def public_answer(owner: str, body: bytes) -> bytes:
    """A lookup's answer as its asker knows the conversations; others' are left out."""
    prefix = f"{owner}."
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b"[]"
    found = [each for each in answer if isinstance(each, dict) and str(each.get(FOUND)).startswith(prefix)]
    return orjson.dumps([each | {FOUND: each[FOUND].removeprefix(prefix)} for each in found])


class Lookup:
    """An answer to a lookup on its way to its asker, who gets it when it is whole. `pieces`: of its body."""

    def __init__(self, owner: str, head: bytes) -> None:
        self._owner = owner
        self._head = head
        self.pieces: list[bytes] = []

    def answer(self) -> bytes:
        """All of it, as its asker may see it."""
        found = public_answer(self._owner, b"".join(self.pieces))
        return LENGTH_LINE.sub(b"\\g<1>%d" % len(found), self._head) + found
