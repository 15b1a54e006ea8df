"""Chunks that are known to be whole without a parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.front.chunks import SHORT_BYTES, ends_between, is_chunk

LAST = b"0\r\n\r\n"

contents = st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"a\r\n"])


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


@pytest.mark.parametrize("size", [*range(1, 300), 1000, SHORT_BYTES - 7])
def test_a_chunk_of_any_short_size_is_one(size: int) -> None:
    whole = chunk(b"x" * size)
    assert is_chunk(whole)
    assert not is_chunk(whole[:-1])
    assert not is_chunk(whole + b"x")
    assert not is_chunk(whole[1:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"\n",
        b"\n\r\n",
        b"\n" + b"x" * 18 + b"\r\n",
        LAST,
        b"05\r\nhello\r\n",
        b"5;x\r\nhello\r\n",
        b"5\r\nhello  ",
        b"5\r\nhelloo\r\n",
    ],
)
def test_anything_else_is_none(data: bytes) -> None:
    assert not is_chunk(data)


def test_a_long_chunk_is_left_to_the_parser() -> None:
    assert not is_chunk(chunk(b"x" * SHORT_BYTES))
    assert not ends_between(chunk(b"x" * SHORT_BYTES))


@given(st.lists(contents, max_size=6), st.data())
def test_chunks_cut_anywhere_end_between_where_one_ends(parts: list[bytes], data: st.DataObject) -> None:
    wholes = [chunk(part) for part in parts]
    body = b"".join(wholes) + LAST
    cut = data.draw(st.integers(0, len(body)))
    ends = {sum(map(len, wholes[:count])) for count in range(len(wholes) + 1)}
    assert ends_between(body[:cut]) == (cut in ends)


@pytest.mark.parametrize("data", [b"5;x\r\nhello\r\n", b"-5\r\n", b"\r\n\r\n", b"zz\r\n", b"5", b"5\r\nhello"])
def test_what_is_no_chunk_of_ours_does_not_end_between(data: bytes) -> None:
    assert not ends_between(data)
