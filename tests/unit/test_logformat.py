"""Logs for people and logs for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from runner_supervisor import logformat
from runner_supervisor.logformat import ENGINE, FIELDS, REQUESTS, JsonFormatter, also_log, log_to_stderr


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The process's loggers are given back as they were."""
    root = logging.getLogger()
    names = (REQUESTS, ENGINE, *logformat.LEAST)
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    level = root.level
    yield
    root.setLevel(level)
    for logger, least in before:
        logger.setLevel(least)
        logger.propagate = True
        logger.handlers = []


def begin(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, style: Any = "auto") -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    console = Console(file=written, force_terminal=terminal, width=200, no_color=True)
    log_to_stderr(console, style=style, level="info", journal=None)
    return written


@pytest.mark.parametrize(
    ("style", "terminal", "as_json"),
    [("auto", True, False), ("auto", False, True), ("text", False, False), ("json", True, True)],
)
def test_a_terminal_gets_text_and_all_else_json_unless_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, style: str, terminal: bool, as_json: bool
) -> None:
    written = begin(monkeypatch, terminal=terminal, style=style)
    logging.getLogger("a.b").warning('one "%s"', "thing")
    (line,) = written.getvalue().splitlines()
    assert 'one "thing"' in (json.loads(line)["message"] if as_json else line)


def test_a_line_of_json_has_time_level_source_and_what_was_given_with_it() -> None:
    record = logging.LogRecord("a.b", logging.ERROR, "", 0, "lost %d", (3,), None)
    setattr(record, FIELDS, {"request_id": "r1"})
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "error", "source": "front", "logger": "a.b", "message": "lost 3", "request_id": "r1"}


def test_a_traceback_stays_in_its_line() -> None:
    try:
        int("why")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "x", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("'why'")


def test_requests_and_the_engines_lines_are_logged_when_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written = begin(monkeypatch, terminal=False)
    for wanted in (False, True):
        also_log(requests=wanted, engine=wanted)
        logging.getLogger(REQUESTS).info("asked")
        logging.getLogger(ENGINE).info("loading")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["source"], line["message"]) for line in lines] == [("front", "asked"), ("engine", "loading")]
