"""What an answer cost is read off the engine's own figures, in each of the shapes that it has."""

from __future__ import annotations

import json

import pytest

from runner_supervisor.front.figures import Figures, estimate, read

TIMINGS = {"cache_n": 3, "prompt_n": 5, "prompt_ms": 1.5, "predicted_n": 7, "predicted_ms": 9.5}
USAGE = {
    "completion_tokens": 7,
    "prompt_tokens": 8,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 3},
}
RESPONSES = {
    "input_tokens": 8,
    "output_tokens": 7,
    "total_tokens": 15,
    "input_tokens_details": {"cached_tokens": 3},
}
WANTED = Figures(prompt_tokens=8, cached_tokens=3, generated_tokens=7)


def text(value: object) -> bytes:
    """As llama-server writes JSON: without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    body = b"data: " + text(value) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(body), body)


DONE = b"e\r\ndata: [DONE]\n\n\r\n"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"text": "sea"}], "usage": USAGE, "id": "x", "timings": TIMINGS},
        {"choices": [{"text": "sea"}], "usage": USAGE, "id": "x"},
        {"output": [], "usage": RESPONSES},
        {"content": [], "usage": {"cache_read_input_tokens": 3, "input_tokens": 5, "output_tokens": 7}},
        {"content": "sea", "tokens_predicted": 7, "tokens_evaluated": 8, "tokens_cached": 15, "timings": TIMINGS},
    ],
    ids=["openai", "openai without timings", "responses", "anthropic", "native"],
)
def test_a_whole_answer(body: object) -> None:
    assert read(text(body), [text(body)]) == WANTED


@pytest.mark.parametrize(
    "last",
    [
        [event({"choices": [], "usage": USAGE, "timings": TIMINGS}), DONE, END],
        [event({"choices": [{"delta": {}}], "timings": TIMINGS}), DONE + END],
        [event({"content": "", "stop": True, "timings": TIMINGS}) + END],
        [b"event: response.completed\n" + event({"response": {"usage": RESPONSES}, "timings": TIMINGS}), END],
    ],
    ids=["openai with usage", "openai", "native", "responses"],
)
def test_a_stream_has_them_in_its_last_event(last: list[bytes]) -> None:
    assert read(event({"choices": [{"delta": {"content": "The"}}]}), last) == WANTED


def test_anthropics_streams_have_some_in_the_first_event_and_some_in_the_last() -> None:
    start = {"message": {"usage": {"cache_read_input_tokens": 3, "input_tokens": 5, "output_tokens": 0}}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 7}}
    assert read(event(start), [event(delta) + event({"type": "message_stop"}), END]) == WANTED


def test_embeddings_have_them_at_the_beginning() -> None:
    first = text({"model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": []})
    assert read(first, [b"0.1,0.2]}]}"]) == Figures(prompt_tokens=8)


def test_what_a_model_writes_is_not_taken_for_a_figure() -> None:
    written = json.dumps({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, separators=(",", ":"))
    body = text({"choices": [{"text": written}]})
    assert read(body, [body]) is None


@pytest.mark.parametrize(
    ("streamed", "generated"), [(True, 12), (False, 200)], ids=["by its pieces", "by its length"]
)
def test_what_gives_no_figures_is_estimated_from_what_was_seen_of_it(streamed: bool, generated: int) -> None:
    found = estimate(asked_bytes=4000, pieces=12, answer_bytes=800, streamed=streamed)
    assert found == Figures(1000, 0, generated, estimated=True)


@pytest.mark.parametrize("left", [{"tokens_evaluated": 5}, {"timings": {"prompt_n": 5}}, {"content": "The"}])
def test_a_client_that_asks_for_some_fields_only_is_not_believed_that_nothing_was_generated(left: object) -> None:
    assert read(text(left), []) is None


def test_figures_count_for_each_answer_that_was_asked_for() -> None:
    assert WANTED.times(3) == Figures(24, 9, 21)
