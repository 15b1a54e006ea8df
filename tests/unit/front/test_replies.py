"""Error answers in OpenAI's shape."""

from __future__ import annotations

import json

import pytest

from runner_supervisor.front.replies import INVALID_KEY, Refusal


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (413, "invalid_request_error"),
        (500, "server_error"),
        (502, "service_unavailable_error"),
        (503, "service_unavailable_error"),
    ],
)
def test_the_body_has_openais_four_fields(status: int, type_: str) -> None:
    body = json.loads(Refusal(status, "a_code", "A message.").body())
    assert body == {"error": {"message": "A message.", "type": type_, "param": None, "code": "a_code"}}


def test_the_response_says_how_long_it_is_and_what_more_there_is_to_say() -> None:
    refusal = Refusal(503, "c", "m", retry_after_s=7)
    head, _, body = refusal.response([b"connection: close"]).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 503 Service Unavailable",
        b"content-type: application/json",
        b"retry-after: 7",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    assert b"connection" not in refusal.response()
    assert refusal.response([b"connection: close"], head_only=True) == head + b"\r\n\r\n"


def test_401_names_the_scheme() -> None:
    assert INVALID_KEY.headers()["www-authenticate"] == "Bearer"
