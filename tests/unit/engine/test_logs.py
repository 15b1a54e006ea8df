"""The engine's log: lines, ring, file, levels, the first error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_supervisor.engine.logs import (
    LAST_LINES,
    LINE_BYTES,
    RING_LINES,
    EngineLog,
    Line,
    LinePump,
    first_error,
    level_of,
    parse,
    without_paths,
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EngineLog]:
    log = EngineLog(tmp_path / "engine.log")
    yield log
    log.close()


def test_pieces_are_put_together_into_lines(log: EngineLog) -> None:
    closed = asyncio.Event()
    pump = LinePump(log.begin_run("one"), closed)
    for piece in (b"on", b"e\ntw", b"o\r\n\xff", b"\n", b"unfinished"):
        pump.data_received(piece)
    pump.connection_lost(None)
    assert log.tail(4) == ["one", "two", "\ufffd", "unfinished"]
    assert log.path.read_text().partition("\n")[2] == "one\ntwo\n\ufffd\nunfinished\n"
    assert closed.is_set()


def test_a_line_without_end_is_cut(log: EngineLog) -> None:
    pump = LinePump(log.begin_run("one"), asyncio.Event())
    for _ in range(5):
        pump.data_received(b"x" * (LINE_BYTES - 1))
    assert {len(line) for line in log.tail(2)} == {LINE_BYTES}


def test_the_ring_is_bounded(log: EngineLog) -> None:
    for number in range(RING_LINES + 10):
        log.add(str(number))
    assert log.tail(RING_LINES * 2)[0] == "10"


def test_percent_signs_are_only_text(log: EngineLog) -> None:
    log.add("100 %s done %d")
    assert log.path.read_text() == "100 %s done %d\n"


def test_the_error_that_is_quoted_is_the_cause_and_not_what_followed(log: EngineLog) -> None:
    run = log.begin_run("one")
    assert first_error(run.last) is None
    run.add("0.00.001.000 E srv  send_error: long ago")
    for _ in range(LAST_LINES):
        run.add("0.00.002.000 I srv  E is no level here")
    run.add("0.00.003.000.000 E is no time")
    run.add("0.00.003.000 E llama_model_load: error loading model: tensor data is not within the file bounds")
    run.add("0.00.004.000 E srv  llama_server: exiting due to model loading error")
    assert first_error(run.last) == "llama_model_load: error loading model: tensor data is not within the file bounds"


def test_a_run_begins_with_its_name_and_the_time(log: EngineLog) -> None:
    log.begin_run("llama-server 1-2")
    assert re.fullmatch(r"--- llama-server 1-2 starts, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", log.tail(1)[0])


def test_each_run_has_last_lines_of_its_own(log: EngineLog) -> None:
    first, second = log.begin_run("one"), log.begin_run("two")
    first.add("0.00.003.000 E srv  of the first run")
    second.add("error: invalid argument: --no-such-flag")
    assert first.last == ("0.00.003.000 E srv  of the first run",)
    assert first_error(second.last) == "error: invalid argument: --no-such-flag"
    assert log.tail(2) == [*first.last, *second.last]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("0.00.003.942 I srv  llama_server: initializing ...", Line("info", "srv  llama_server: initializing ...")),
        ("1.52.873.184 W init: embeddings required", Line("warning", "init: embeddings required")),
        ("error: invalid argument: -x", Line("error", "error: invalid argument: -x")),
        ("", Line("info", "")),
    ],
)
def test_lines_carry_their_level(line: str, parsed: Line) -> None:
    assert parse(line) == parsed


def test_lines_of_the_supervisors_own_log_have_levels_too() -> None:
    assert level_of("2026-11-23 01:02:03,456 WARNING runner_supervisor.app: engine ready -> backoff") == "warning"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "failed to open GGUF file '/home/me/models/a.gguf' (No such file)",
            "failed to open GGUF file 'a.gguf' (No such file)",
        ),
        ("/srv/a.gguf: bad", "a.gguf: bad"),
        ("GET /v1/models and 3/4 of a/b", "GET models and 3/4 of a/b"),
        ("unix:///run/x/engine.sock", "unix:engine.sock"),
    ],
)
def test_strangers_see_no_folders(line: str, shown: str) -> None:
    assert without_paths(line) == shown
