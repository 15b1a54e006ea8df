"""How a streamed answer is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner_supervisor.loadtest.figures import Answer, Failure
from runner_supervisor.loadtest.stream import CUT_OFF, KEPT_BYTES, NO_TOKENS, NO_USAGE, Reading, failure

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def event(data: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(data).encode()


def chunk(**delta: Any) -> bytes:
    return event({"choices": [{"delta": delta}]})


ROLE = chunk(role="assistant", content=None)
LAST = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def read(*pieces: bytes) -> Answer | Failure:
    """What an answer is whose pieces come a second apart, from a second after it was asked for."""
    reading = Reading(sent_s=0.0)
    for second, piece in enumerate(pieces, start=1):
        reading.feed(piece, now_s=float(second))
    return reading.outcome(now_s=float(len(pieces)))


def test_the_first_token_is_the_first_that_is_no_mere_role() -> None:
    answer = read(ROLE, chunk(content="a"), chunk(content="b"), LAST + DONE)
    assert answer == Answer(2.0, 4.0, prompt_tokens=9, cached_tokens=4, generated_tokens=3)


@pytest.mark.parametrize("delta", [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}])
def test_thoughts_and_calls_of_tools_are_tokens_too(delta: dict[str, Any]) -> None:
    answer = read(chunk(**delta), chunk(content="a"), LAST + DONE)
    assert isinstance(answer, Answer)
    assert answer.ttft_s == 1.0


@pytest.mark.parametrize("size", [1, 5, 64])
def test_events_may_be_cut_anywhere(size: int) -> None:
    whole = (ROLE + chunk(content="a") + LAST + DONE).replace(b"\n", b"\r\n")
    answer = read(*(whole[at : at + size] for at in range(0, len(whole), size)))
    assert isinstance(answer, Answer)
    assert answer.generated_tokens == 3


def test_a_long_answer_is_not_kept() -> None:
    reading = Reading(sent_s=0.0)
    for _ in range(3000):
        reading.feed(chunk(content="word"), now_s=1.0)
    assert len(reading._kept) <= KEPT_BYTES
    reading.feed(LAST + DONE, now_s=2.0)
    assert isinstance(reading.outcome(now_s=2.0), Answer)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([], CUT_OFF),
        ([ROLE, chunk(content="a")], CUT_OFF),
        ([ROLE, LAST + DONE], NO_TOKENS),
        ([chunk(content="a"), DONE], NO_USAGE),
        (
            [chunk(content="a"), event({"error": {"code": "engine_failed", "message": "It ended."}})],
            Failure("engine_failed", "It ended."),
        ),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failure(pieces: list[bytes], found: Failure) -> None:
    assert read(*pieces) == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"error": {"code": "rate_limited", "message": "m"}}, Failure("429 rate_limited", "m")),
        ({"error": {"code": 429, "message": "m"}}, Failure("429 error", "m")),
        ({"error": {"code": 429, "type": "busy", "message": "m"}}, Failure("429 busy", "m")),
        ("<html>\n  <b>" + "x" * 1000, Failure("429 error", "<html> <b>" + "x" * 290)),
        ([], Failure("429 error", "[]")),
    ],
)
def test_errors_are_understood_in_several_shapes(body: Any, found: Failure) -> None:
    assert failure(body, status=429) == found
