"""What an answer cost is read off the engine's own figures, in each of the shapes that it has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner_supervisor.front.figures import Asked, Figures, Seen, figures_of

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


ASKED = Asked(40)


def read(first: bytes, last: list[bytes], asked: Asked = ASKED, **more: Any) -> Figures:
    """The figures of a whole answer that is no stream."""
    seen = {"pieces": 12, "size_bytes": 800, "streamed": False, "whole": True} | more
    return figures_of(asked, Seen(first, last, **seen))


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


SCORES = Asked(40, generates=False)


def test_embeddings_have_them_at_the_beginning() -> None:
    first = text({"model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": []})
    assert read(first, [b"0.1,0.2]}]}"], SCORES) == Figures(prompt_tokens=8)


def test_what_is_not_generated_is_not_estimated_either() -> None:
    assert read(b'[{"index":0,"embedding":[[0.1', [b"0.2]]}]"], SCORES) == Figures(10, estimated=True)


def test_what_a_model_writes_is_not_taken_for_a_figure() -> None:
    written = json.dumps({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, separators=(",", ":"))
    body = text({"choices": [{"text": written}]})
    assert read(body, [body]) == Figures(10, 0, 200, estimated=True)


@pytest.mark.parametrize(
    ("seen", "generated"),
    [
        ({"streamed": True}, 12),
        ({"streamed": True, "size_bytes": 256 * 100}, 100),
        ({"streamed": False}, 200),
    ],
    ids=["by its pieces", "by its length, where they are several events each", "by its length"],
)
def test_what_gives_no_figures_is_estimated_from_what_was_seen_of_it(seen: dict[str, Any], generated: int) -> None:
    assert read(b"", [], Asked(4000), **seen) == Figures(1000, 0, generated, estimated=True)


@pytest.mark.parametrize(
    ("left", "counted"),
    [
        ({"tokens_evaluated": 5}, (5, 200)),
        ({"timings": {"prompt_n": 5}}, (5, 200)),
        ({"tokens_predicted": 7}, (10, 7)),
        ({"content": "The"}, (10, 200)),
    ],
)
def test_what_a_client_leaves_out_is_estimated(left: object, counted: tuple[int, int]) -> None:
    found = read(text(left), [])
    assert (found.prompt_tokens, found.generated_tokens, found.estimated) == (*counted, True)


def test_a_stream_that_says_zero_at_its_beginning_and_breaks_off_is_counted_by_its_pieces() -> None:
    start = event({"message": {"usage": {"input_tokens": 5, "output_tokens": 0}}})
    assert read(start, [event({"delta": {}})], streamed=True, whole=False) == Figures(5, 0, 12, estimated=True)


def test_each_answer_that_was_asked_for_is_counted() -> None:
    body = text({"usage": USAGE})
    assert read(body, [body], Asked(40, copies=3)) == Figures(8, 3, 21)


def test_the_first_of_several_prompts_does_not_speak_for_the_others() -> None:
    body = text({"usage": USAGE})
    assert read(body, [body], Asked(4000, prompts=10)) == Figures(1000, 3, 200, estimated=True)


def test_of_several_answers_in_a_stream_the_last_figures_and_all_pieces_count() -> None:
    finals = [event({"tokens_predicted": 1, "timings": TIMINGS | {"predicted_n": 50}})]
    found = read(event({"tokens_predicted": 1}), finals, Asked(40, copies=4), streamed=True, pieces=120)
    assert found.generated_tokens == 200
