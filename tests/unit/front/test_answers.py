"""What clients get of the heads of answers, read once or remembered."""

from __future__ import annotations

import pytest

from runner_supervisor.front.answers import AnswerHead, Answers

JSON = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
)
SHOWN = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json\r\nContent-Length: %d"
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nKeep-Alive: a=5\r\n\r\n"
)


def test_what_belongs_to_the_engines_connection_stays_here() -> None:
    assert Answers().read(200, JSON % 5) == AnswerHead(200, SHOWN % 5)


def test_a_stream_is_known_as_one_again_and_again() -> None:
    answers = Answers()
    read = answers.read(200, STREAM)
    assert (read.chunked, read.streamed) == (True, True)
    assert answers.read(200, STREAM) is read


def test_further_lines_come_before_the_blank_one() -> None:
    head = AnswerHead(200, SHOWN % 5)
    assert head.with_lines([b"a: b", b"c: d"]) == SHOWN % 5 + b"\r\na: b\r\nc: d\r\n\r\n"
    assert head.with_lines([]) == SHOWN % 5 + b"\r\n\r\n"


def test_without_chunked_framing_nothing_says_that_there_is_one() -> None:
    head = Answers().read(200, STREAM)
    assert b"ransfer-" not in head.with_lines([], chunked=False)


def test_a_whole_answer_with_the_last_ones_head_needs_no_parser() -> None:
    answers = Answers()
    answers.read(200, JSON % 5)
    message = JSON % 11 + b"hello world"
    assert answers.whole(message) == (AnswerHead(200, SHOWN % 11), len(JSON % 11))


@pytest.mark.parametrize("message", [JSON % 11 + b"hello", JSON % 5 + b"hello world", STREAM, JSON[:40]])
def test_what_is_not_whole_or_has_more_or_another_head_does(message: bytes) -> None:
    answers = Answers()
    answers.read(200, JSON % 5)
    assert answers.whole(message) is None


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (404, (JSON % 5).replace(b"200 OK", b"404 Not Found")),
        (200, (JSON % 5).replace(b"Keep-Alive:", b"Connection: close\r\nKeep-Alive:")),
        (200, (JSON % 5).replace(b"HTTP/1.1", b"HTTP/1.0")),
    ],
    ids=["no success", "closes", "an older protocol"],
)
def test_only_good_answers_on_connections_that_stay_are_remembered(status: int, head: bytes) -> None:
    answers = Answers()
    answers.read(status, head)
    assert answers.whole(head + b"hello") is None
