"""Bodies that cannot be served are told apart from those that can."""

from __future__ import annotations

import pytest

from runner_supervisor.front.body import MOST_ANSWERS, ONE, check_body
from runner_supervisor.front.message import Head


def head(method: bytes, path: bytes) -> Head:
    return Head(method, path, [], http_1_0=False, keep_alive=True, owner=None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"n": 9, "a":' + b"[" * 2000 + b"]" * 2000 + b"}", "is not valid JSON"),
    ],
)
def test_what_is_no_object_is_refused(body: bytes, message: str) -> None:
    refusal, _ = check_body(head(b"POST", b"/v1/chat/completions"), body)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "invalid_json")
    assert message in refusal.message


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (b"POST", b"/v1/completions", b' {"prompt": "\xc3\xa4", "seed": 123456789012345678901234567890} '),
        (b"POST", b"/v1/completions", b'\xef\xbb\xbf{"prompt": "x"}\0'),
        (b"POST", b"/v1/completions", b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"),
        (b"POST", b"/v1/audio/transcriptions", b"--multipart"),
        (b"POST", b"/some/new/path", b"anything"),
        (b"GET", b"/v1/completions", b""),
    ],
)
def test_everything_else_is_the_engines(method: bytes, path: bytes, body: bytes) -> None:
    assert check_body(head(method, path), body) == (None, ONE)


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        (b'{"prompt": "x", "n": 3}', (1, 3)),
        (b'{"prompt": "x", "n_cmpl": 2}', (1, 2)),
        (b'{"prompt": ["x", "y"], "n": 2}', (2, 2)),
        (b'{"prompt": [1, 2, 3]}', (1, 1)),
        (b'{"prompt": [], "n": 0}', (1, 1)),
        (b'{"prompt": "x", "n": 1000000000}', (1, MOST_ANSWERS)),
        (b'{"prompt": "x", "n": "3"}', (1, 1)),
        (b'{"prompt": "x", "n": 3.0}', (1, 3)),
        (b'{"prompt": "x", "n": true}', (1, 1)),
        (b'{"prompt": "x", "\\u006e": 4}', (1, 4)),
        (b'{"prompt": "x", "n": 1e308}', (1, MOST_ANSWERS)),
    ],
)
def test_the_answers_that_are_asked_for_are_counted(body: bytes, answers: tuple[int, int]) -> None:
    assert check_body(head(b"POST", b"/v1/completions"), body) == (None, answers)
