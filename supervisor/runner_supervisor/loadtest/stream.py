"""Reads one streamed chat answer as it comes: when its first token came, and at the end what it has cost. Pure.

Events are looked into until the first token; after it only the end is kept, so that reading costs as little as it can
where it shares processors with the engine.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from runner_supervisor.loadtest.figures import Answer, Failure, Outcome

KEPT_BYTES = 16_384
"""Enough for the event with the usage, which has the engine's timings too, and what ends the stream."""

MESSAGE_CHARACTERS = 300
DONE = b"data: [DONE]"
TEXTS = ("content", "reasoning_content", "tool_calls")
CUT_OFF = Failure("cut off", "the stream ended without [DONE]")
NO_TOKENS = Failure("no tokens", "the answer has no tokens")
NO_USAGE = Failure("no usage", "the stream does not say what it cost; the endpoint must heed stream_options")


class Reading:
    """One answer, from when its request was sent. Times are seconds on one clock."""

    def __init__(self, *, sent_s: float) -> None:
        self._sent_s = sent_s
        self._first_s: float | None = None
        self._kept = b""

    def feed(self, piece: bytes, *, now_s: float) -> None:
        """Read what has come."""
        self._kept += piece
        if self._first_s is None and any(map(has_token, events(self._kept))):
            self._first_s = now_s
        if self._first_s is not None:
            self._kept = self._kept[-KEPT_BYTES:]

    def outcome(self, *, now_s: float) -> Outcome:
        """What it was, now that it is over."""
        said = events(self._kept)
        for event in said:
            if "error" in event:
                return failure(event)
        if not self._kept.rstrip().endswith(DONE):
            return CUT_OFF
        if self._first_s is None:
            return NO_TOKENS
        usage = next((each["usage"] for each in reversed(said) if each.get("usage")), None)
        if usage is None:
            return NO_USAGE
        details = usage.get("prompt_tokens_details") or {}
        return Answer(
            ttft_s=self._first_s - self._sent_s,
            took_s=now_s - self._sent_s,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=details.get("cached_tokens", 0),
            generated_tokens=usage["completion_tokens"],
        )


def events(kept: bytes) -> list[dict[str, Any]]:
    """The whole events in it that are JSON objects: not `[DONE]`, nor what is left of the first one of a kept end."""
    found: list[dict[str, Any]] = []
    for block in kept.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        with contextlib.suppress(ValueError):
            data = json.loads(block.partition(b"data:")[2])
            if isinstance(data, dict):
                found.append(data)
    return found


def has_token(event: dict[str, Any]) -> bool:
    """Whether a chunk brings some of the answer: the first one may have nothing but its role."""
    return any((choice.get("delta") or {}).get(text) for choice in event.get("choices") or () for text in TEXTS)


def failure(body: Any, *, status: int | None = None) -> Failure:
    """What an error says, in OpenAI's shape or another. `status`: of the answer, where that is the error."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": error or body}
    names = (error.get("code"), error.get("type"))
    name = next(
        (each for each in names if isinstance(each, str) and each), "error"
    )  # llama-server's code is a number
    cause = name if status is None else f"{status} {name}"
    return Failure(cause, " ".join(str(error.get("message", "")).split())[:MESSAGE_CHARACTERS])
