"""The last lines of both logs, and who may see which."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.supervisor import QUOTES
from runner_supervisor.front.pages.tail import LINE_CHARACTERS, LogTail, tailing


def texts(tail: LogTail, *, guarded: bool, after: int = 0) -> list[str]:
    return [line.text for line in tail.after(after, guarded=guarded)[0]]


def test_both_logs_are_heard_until_nobody_listens(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "engine.log")
    logger = logging.getLogger("runner_supervisor.test")
    with tailing(log) as tail:
        log.add("0.00.001.717 I srv  load_model: loading")
        logger.warning("engine %d died", 1)
    log.add("0.00.002.717 I later")
    logger.warning("later")
    log.close()
    seen = [(line.number, line.source, line.level, line.text) for line in tail.after(0, guarded=True)[0]]
    assert seen == [(1, "engine", "info", "srv  load_model: loading"), (2, "front", "warning", "engine 1 died")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0.00.001.717 I srv  update_slots: all slots are idle", True),
        ("0.00.001.717 E srv  load_model: no such file", True),
        ("0.00.001.717 W srv  got exception: what somebody asked for", False),
        ("0.00.001.717 D srv  request: a whole prompt", False),
        ("the second line of a prompt", False),
        ("error: parsing a grammar that somebody wrote", False),
    ],
)
def test_lines_that_may_quote_requests_are_for_administrators_alone(line: str, told: bool) -> None:
    tail = LogTail()
    tail.hear(line)
    assert len(texts(tail, guarded=True)) == 1
    assert bool(texts(tail, guarded=False)) is told


def test_what_the_supervisor_quotes_of_an_engine_is_for_administrators_alone() -> None:
    tail = LogTail()
    tail.handle(logging.LogRecord(QUOTES, logging.INFO, "", 0, "engine 1 said: a prompt", (), None))
    assert texts(tail, guarded=True) == ["engine 1 said: a prompt"]
    assert texts(tail, guarded=False) == []


def test_a_reader_gets_what_came_after_the_last_line_it_had() -> None:
    tail = LogTail()
    for number in range(5):
        tail.hear(f"0.00.001.717 I {number}")
    assert texts(tail, guarded=False, after=3) == ["3", "4"]
    assert texts(tail, guarded=False, after=tail.after(0, guarded=True)[1]) == []


def test_lines_and_their_length_are_bounded() -> None:
    tail = LogTail(most=2)
    for number in range(5):
        tail.hear(f"0.00.001.717 I {number}{'x' * 10_000}")
    kept = texts(tail, guarded=True)
    assert [text[0] for text in kept] == ["3", "4"]
    assert {len(text) for text in kept} == {LINE_CHARACTERS}


def test_files_lose_their_folders() -> None:
    tail = LogTail()
    tail.hear("0.00.001.717 E load: cannot open /home/someone/models/a.gguf")
    assert texts(tail, guarded=True) == ["load: cannot open a.gguf"]


def test_who_tries_wrong_keys_is_for_administrators(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "engine.log")
    with tailing(log) as tail:
        logging.getLogger("runner_supervisor.front.strikes").warning("10 wrong keys from 192.0.2.1")
    log.close()
    assert texts(tail, guarded=False) == []
    assert len(texts(tail, guarded=True)) == 1
