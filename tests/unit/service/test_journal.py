"""Log lines for the journal."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_supervisor.logformat import FIELDS
from runner_supervisor.service.journal import JournalFormatter, JournalHandler, goes_to_journal


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


@pytest.fixture
def journal(short_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(str(short_dir / "journal"))
        yield listener


def handler(journal: socket.socket) -> JournalHandler:
    return JournalHandler(str(journal.getsockname()))


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("name", logging.INFO, "", 0, message, (), None)
    setattr(made, FIELDS, fields)
    return made


def test_the_journal_gets_fields(journal: socket.socket) -> None:
    sends = handler(journal)
    sends.emit(record("done", request_id="r1", key=None, ms=1.5))
    sends.close()
    assert journal.recv(65536).decode().splitlines() == [
        "MESSAGE=done",
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=runner-supervisor",
        "LOGGER=name",
        "RUNNER_REQUEST_ID=r1",
        "RUNNER_MS=1.5",
    ]


def test_a_message_of_several_lines_cannot_be_taken_for_fields(journal: socket.socket) -> None:
    sends = handler(journal)
    sends.emit(record("one\nPRIORITY=0"))
    sends.close()
    assert journal.recv(65536).startswith(
        b"MESSAGE\n" + (14).to_bytes(8, "little") + b"one\nPRIORITY=0\nPRIORITY=6\n"
    )


def test_what_the_journal_does_not_take_goes_to_stderr(
    journal: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    sends = handler(journal)
    journal.close()
    sends.emit(record("one"))
    sends.close()
    assert capsys.readouterr().err == "<6>name: one\n"
