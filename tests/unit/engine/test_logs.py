"""The engine's log: lines, ring, file, the last error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_supervisor.engine.logs import LAST_LINES, LINE_BYTES, RING_LINES, EngineLog, LinePump


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EngineLog]:
    log = EngineLog(tmp_path / "engine.log")
    yield log
    log.close()


def test_pieces_are_put_together_into_lines(log: EngineLog) -> None:
    closed = asyncio.Event()
    pump = LinePump(log, closed)
    for piece in (b"on", b"e\ntw", b"o\r\n\xff", b"\n", b"unfinished"):
        pump.data_received(piece)
    pump.connection_lost(None)
    assert log.tail(10) == ["one", "two", "\ufffd", "unfinished"]
    assert log.path.read_text() == "one\ntwo\n\ufffd\nunfinished\n"
    assert closed.is_set()


def test_a_line_without_end_is_cut(log: EngineLog) -> None:
    pump = LinePump(log, asyncio.Event())
    for _ in range(5):
        pump.data_received(b"x" * (LINE_BYTES - 1))
    assert {len(line) for line in log.tail(10)} == {LINE_BYTES}


def test_the_ring_is_bounded(log: EngineLog) -> None:
    for number in range(RING_LINES + 10):
        log.add(str(number))
    assert log.tail(RING_LINES * 2)[0] == "10"


def test_percent_signs_are_only_text(log: EngineLog) -> None:
    log.add("100 %s done %d")
    assert log.path.read_text() == "100 %s done %d\n"


def test_the_error_that_is_quoted_is_the_cause_and_not_what_followed(log: EngineLog) -> None:
    log.begin_run()
    assert log.last_error() is None
    log.add("0.00.001.000 E srv  send_error: long ago")
    for _ in range(LAST_LINES):
        log.add("0.00.002.000 I srv  E is no level here")
    log.add("0.00.003.000 E llama_model_load: error loading model: tensor data is not within the file bounds")
    log.add("0.00.004.000 E srv  llama_server: exiting due to model loading error")
    assert log.last_error() == "llama_model_load: error loading model: tensor data is not within the file bounds"


def test_lines_of_an_earlier_run_are_not_quoted(log: EngineLog) -> None:
    log.add("0.00.003.000 E srv  of the first run")
    log.begin_run()
    assert log.last_error() is None
    log.add("error: invalid argument: --no-such-flag")
    assert log.last_error() == "error: invalid argument: --no-such-flag"
