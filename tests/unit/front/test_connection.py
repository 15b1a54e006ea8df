"""Answers in chunks, however their bytes are cut on the way."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.front.answers import AnswerHead
from runner_supervisor.front.connection import Connection, Exchange
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.upstream import Upstream

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [b"data: one\n\n", b":\n\n", b"data: 0\r\n\r\n", b"x" * 300, b"5\r\nno chunk\r\n"]
LAST = b"0\r\n\r\n"


class Transport:
    """Takes what is written, and may be closed."""

    def __init__(self) -> None:
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class Answer(Exchange):
    """What came of it, read by read."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = self.stale = False
        self.on_data = self._on_data

    @property
    def takes_slot(self) -> bool:
        return True

    def on_head(self, head: AnswerHead, body: bytes) -> None:
        assert head.status == 200
        self.body += body

    def _on_data(self, data: bytes) -> None:
        assert not self.ended
        self.body += data

    def on_end(self) -> None:
        self.ended = True

    def on_lost(self, *, stale: bool) -> None:
        self.stale = stale


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


async def received(reads: list[bytes]) -> tuple[Connection, Answer, Transport]:
    """A connection that these reads came on, after the head in one of its own."""
    upstream = Upstream(Path("engine.sock"), Outbox(asyncio.get_running_loop()))
    connection, answer, transport = Connection(upstream), Answer(), Transport()
    connection.open(answer, head_only=False)
    connection.connection_made(cast("asyncio.Transport", transport))
    for read in reads:
        connection.data_received(read)
    return connection, answer, transport


@given(st.lists(st.sampled_from(EVENTS), max_size=12), st.data())
def test_all_of_it_comes_through_and_its_end_is_found(events: list[bytes], data: st.DataObject) -> None:
    chunks = [chunk(event) for event in events]
    body = b"".join(chunks) + LAST
    whole_ends = [len(HEAD) + sum(map(len, chunks[:count])) for count in range(len(chunks) + 1)]
    cuts = sorted(data.draw(st.sets(st.sampled_from(whole_ends) | st.integers(1, len(HEAD + body) - 1))))
    edges = [0, *cuts, len(HEAD + body)]
    reads = [(HEAD + body)[begin:end] for begin, end in itertools.pairwise(edges)]
    connection, answer, transport = asyncio.run(received(reads))
    assert answer.body == body
    assert answer.ended
    assert not transport.closed  # it is kept for the next request
    assert connection.size == len(body)


@pytest.mark.parametrize(
    "reads",
    [
        [HEAD, chunk(b"one"), b"3\r\ntwoo\r\n"],
        [HEAD, chunk(b"one"), b"4\r\ntwo\r\n", chunk(b"x")],
        [HEAD, chunk(b"one"), b"two"],
        [HEAD, chunk(b"one"), b"3\r\n", chunk(b"x")],
    ],
)
def test_a_framing_that_is_wrong_breaks_it_off_after_whole_chunks(reads: list[bytes]) -> None:
    _, answer, transport = asyncio.run(received(reads))
    assert transport.closed
    assert not answer.ended


def test_the_ends_of_the_last_reads_are_kept_in_order() -> None:
    reads = [HEAD, *(chunk(b"event %d" % number) for number in range(6))]
    connection, _, _ = asyncio.run(received(reads))
    assert connection.last == reads[-4:]
    assert connection.pieces == 6
    few, _, _ = asyncio.run(received(reads[:3]))
    assert few.last == reads[1:3]
    none, _, _ = asyncio.run(received(reads[:1]))
    assert none.last == []
