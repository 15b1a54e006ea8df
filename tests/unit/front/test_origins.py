"""From which pages a browser may use the API: none, unless they are named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from runner_supervisor.front.origins import Origins

PAGE = b"https://app.example"
NAMED = Origins((PAGE.decode(),))
QUESTION = {b"origin": PAGE, b"access-control-request-method": b"POST"}


def answered(origins: Origins, headers: Mapping[bytes, bytes], method: bytes = b"OPTIONS") -> bytes | None:
    preflight = origins.preflight(method, headers)
    return None if preflight is None else preflight.response(origins.answer_headers(headers.get(b"origin")))


def test_a_page_that_is_named_is_told_what_it_may_do() -> None:
    asked = QUESTION | {b"access-control-request-headers": b"Authorization, x-stainless-os, X-Evil"}
    answer = answered(NAMED, asked)
    assert answer is not None
    assert answer.splitlines()[:-1] == [
        b"HTTP/1.1 204 No Content",
        b"access-control-allow-methods: GET, POST, DELETE, OPTIONS",
        b"access-control-max-age: 600",
        b"access-control-allow-headers: authorization, x-stainless-os",
        b"vary: Origin",
        b"access-control-allow-origin: https://app.example",
        answer.splitlines()[-2],
    ]
    assert b"access-control-expose-headers: retry-after" in answer.splitlines()[-2]


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"https://app.example.evil.example", b""])
@pytest.mark.parametrize("origins", [NAMED, Origins(())])
def test_any_other_is_allowed_nothing(origins: Origins, origin: bytes) -> None:
    answer = answered(origins, QUESTION | {b"origin": origin})
    assert answer is not None
    assert b"access-control" not in answer


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        (b"POST", QUESTION),
        (b"OPTIONS", {b"origin": PAGE}),
        (b"OPTIONS", {b"access-control-request-method": b"POST"}),
    ],
)
def test_what_is_no_preflight_goes_to_the_engine(method: bytes, headers: Mapping[bytes, bytes]) -> None:
    assert answered(NAMED, headers, method) is None


def test_answers_say_that_they_depend_on_the_origin() -> None:
    assert NAMED.answer_headers(None) == (b"vary: Origin",)
    assert NAMED.answer_headers(b"https://evil.example") == (b"vary: Origin",)
    assert Origins(()).answer_headers(PAGE) == ()


def test_any_origin_may_be_let_in_and_none_with_credentials() -> None:
    lines = Origins(("*",)).answer_headers(b"https://evil.example")
    assert lines[0] == b"access-control-allow-origin: *"
    assert b"credentials" not in b"".join(lines)
