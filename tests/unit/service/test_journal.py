"""Log lines for the journal."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from runner_supervisor.service.journal import JournalFormatter, goes_to_journal


@pytest.mark.parametrize(
    ("level", "prefix"), [(logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)]
)
def test_a_line_begins_with_its_priority(level: int, prefix: int) -> None:
    record = logging.LogRecord("name", level, "", 0, "one %s", ("two",), None)
    assert JournalFormatter().format(record) == f"<{prefix}>name: one two"


def test_every_line_of_a_traceback_has_it() -> None:
    try:
        int("three")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "", 0, "one", (), sys.exc_info())
    lines = JournalFormatter().format(record).splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert goes_to_journal(named, descriptor=stream.fileno())
        assert not goes_to_journal({"JOURNAL_STREAM": "8:1"}, descriptor=stream.fileno())
        assert not goes_to_journal({}, descriptor=stream.fileno())
