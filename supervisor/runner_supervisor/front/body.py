"""What a request's body must be before it goes to the engine: JSON, and an object, where the engine parses it.

llama-server answers malformed JSON with 500 (tools/server/server-http.cpp, its exception handler), which reads
as a fault of the server's and invites clients to try again.
"""

from __future__ import annotations

import re

import orjson

from runner_supervisor.front.message import Head
from runner_supervisor.front.replies import Refusal

UTF8_BOM = b"\xef\xbb\xbf"
"""The engine's parser takes it, and trailing NULs, as some clients send them."""

CHECKED_BYTES = 1 << 20
"""Longer bodies are left to the engine: parsing one would hold everybody else up for milliseconds."""


def check_body(head: Head, body: bytes) -> Refusal | None:
    """Why this body cannot be served, or None."""
    if head.method != b"POST" or not head.route.json:
        return None
    try:
        parsed = orjson.loads(body.removeprefix(UTF8_BOM).rstrip(b"\0"))
    except orjson.JSONDecodeError as error:
        if re.search("depth|recursion", str(error)):  # this parser's limit, not the engine's
            return None
        return Refusal(400, "invalid_json", f"The request body is not valid JSON: {error}.")
    if not isinstance(parsed, dict):
        return Refusal(400, "invalid_json", "The request body must be a JSON object.")
    return None
