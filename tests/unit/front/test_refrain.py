"""A head that comes again is known by its bytes, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from runner_supervisor.front.refrain import OTHER, Refrain, refrain_of

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nContent-Length: 12\r\nauthorization: Bearer k\r\n\r\n"


def refrain(head: bytes = HEAD) -> Refrain:
    found = refrain_of(head)
    assert found is not None
    return found


@pytest.mark.parametrize("digits", [b"12", b"0", b"007", b"123456789012345"])
def test_the_same_head_with_another_length_is_known(digits: bytes) -> None:
    head = HEAD.replace(b"12", digits)
    assert refrain().find(head) == (len(head), int(digits))
    assert refrain().find(head + b"the body, or a piece of it") == (len(head), int(digits))


def test_a_length_that_is_the_last_header_is_found_too() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: a\r\ncontent-length:5\r\n\r\n"
    assert refrain(head).find(head + b"hello") == (len(head), 5)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        HEAD[:20],
        HEAD[:-1],
        HEAD.replace(b"Bearer k", b"Bearer l"),
        HEAD.replace(b"Bearer k", b"Bearer kk"),
        HEAD.replace(b"Content-Length", b"content-length"),
        HEAD.replace(b"12", b""),
        HEAD.replace(b"12", b"1234567890123456"),
        HEAD.replace(b"12", b"-1"),
        HEAD.replace(b"12", b"+1"),
        HEAD.replace(b"12", b"1_0"),
        HEAD.replace(b"12", b"1 "),
        HEAD.replace(b"12", b"0x5"),
        HEAD.replace(b"12", "\u0661".encode()),
        HEAD.replace(b"12", b"12\r\nContent-Length: 13"),
        HEAD.replace(b"12", b"12\r\nTransfer-Encoding: chunked"),
        HEAD.replace(b"\r\nauth", b"\nauth"),
        b"\r\n" + HEAD,
    ],
)
def test_any_other_head_is_not(other: bytes) -> None:
    assert refrain().find(other) == OTHER


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
)
def test_a_head_without_a_length_has_no_refrain(head: bytes) -> None:
    assert refrain_of(head) is None
