"""The audit and content logs: what a line says, and how it gets to disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runner_supervisor.front import scribe
from runner_supervisor.front.audit import BROKEN, MOST_ENTRIES, AuditLog, Entry, level_of, line, refused
from runner_supervisor.front.contentlog import TEXT_BYTES, ContentLog
from runner_supervisor.front.scribe import Scribe
from runner_supervisor.rotating import RotatingFile

DEADLINE_S = 10.0


def entry(number: int = 0, *, model: str | None = "demo", outcome: str = "answered") -> Entry:
    return Entry(
        time_s=1_700_000_000.25 + number,
        request_id=b"id-%d" % number,
        key="abcdef012345",
        key_name="ci",
        address="192.0.2.1",
        method="POST",
        path="/v1/chat/completions",
        status=200,
        outcome=outcome,
        ms=12.345,
        model=model,
        prompt_tokens=3,
        cached_tokens=1,
        generated_tokens=7,
        queue_ms=0.0,
        ttft_ms=5.04,
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


class Numbers:
    """A scribe of numbers, whose disk can be made to wait and to fail."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, most: int = 10, most_bytes: int = 0) -> None:
        monkeypatch.setattr(scribe, "PAUSE_S", 0.0)
        monkeypatch.setattr(scribe, "RETRY_S", 0.001)
        self.path = path
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.begun = threading.Event()
        self.error: OSError | None = None
        self.failures = threading.Semaphore(0)
        write = os.write

        def slow(descriptor: int, data: bytes) -> int:
            self.begun.set()
            assert self.goes_on.wait(DEADLINE_S)
            if self.error:
                self.failures.release()
                raise self.error
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", slow)
        self.scribe: Scribe[int] = Scribe(
            RotatingFile(path),
            encode=lambda number: b"%d" % number,
            missing=lambda count: b"missing %d" % count,
            most_items=most,
            most_bytes=most_bytes,
        )

    def close(self) -> list[str]:
        self.scribe.close(DEADLINE_S)
        return self.path.read_text().splitlines()


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Numbers]:
    return lambda **bounds: Numbers(tmp_path / "numbers", monkeypatch, **bounds)


def test_a_line_has_what_is_to_be_known_and_nothing_else() -> None:
    assert json.loads(line(entry())) == {
        "time": "2023-11-14T22:13:20.250Z",
        "request_id": "id-0",
        "key": "abcdef012345",
        "key_name": "ci",
        "address": "192.0.2.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "demo",
        "status": 200,
        "prompt_tokens": 3,
        "cached_tokens": 1,
        "generated_tokens": 7,
        "ms": 12.3,
        "queue_ms": 0.0,
        "ttft_ms": 5.0,
        "outcome": "answered",
    }


@pytest.mark.parametrize("model", ["a\nb", "\x1b[31m", "\x9b31m", "\u2028", "\ud800", "é\x7f", "x" * 10_000])
def test_what_a_client_made_up_stays_on_its_line_and_off_the_terminal(model: str) -> None:
    text = line(entry(model=model)).decode()
    assert text.isprintable()
    assert len(text) < 1_000


def test_entries_are_written_in_order_for_their_owner_alone(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    for number in range(3_000):
        log.record(entry(number))
    log.close()
    assert [found["request_id"] for found in lines(tmp_path / "audit.log")] == [f"id-{n}" for n in range(3_000)]
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_entries_are_written_without_being_asked(numbers: Callable[..., Numbers]) -> None:
    own = numbers()
    own.scribe.add(1)
    assert own.begun.wait(DEADLINE_S)
    assert own.close() == ["1"]


def test_a_slow_disk_makes_nobody_wait_and_what_is_dropped_is_counted(numbers: Callable[..., Numbers]) -> None:
    own = numbers(most=10)
    own.goes_on.clear()
    own.scribe.add(0)
    assert own.begun.wait(DEADLINE_S)
    for number in range(1, 31):
        own.scribe.add(number)
    own.goes_on.set()
    assert own.close() == ["0", "missing 20", *map(str, range(1, 11))]


def test_what_waits_is_bounded_in_bytes_too(numbers: Callable[..., Numbers]) -> None:
    own = numbers(most_bytes=100)
    own.goes_on.clear()
    own.scribe.add(0, 100)
    assert own.begun.wait(DEADLINE_S)
    own.scribe.add(1, 60)
    own.scribe.add(2, 60)
    own.goes_on.set()
    assert own.close() == ["0", "missing 1", "1"]


def test_a_full_disk_loses_nothing_that_there_is_room_to_remember(
    numbers: Callable[..., Numbers], caplog: pytest.LogCaptureFixture
) -> None:
    own = numbers()
    own.error = OSError(errno.ENOSPC, "No space left on device")
    own.scribe.add(1)
    for _ in range(5):
        assert own.failures.acquire(timeout=DEADLINE_S)
    own.scribe.add(2)
    own.error = None
    assert own.close() == ["1", "2"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_end_does_not_wait_for_a_disk_that_hangs(
    numbers: Callable[..., Numbers], caplog: pytest.LogCaptureFixture
) -> None:
    own = numbers()
    own.goes_on.clear()
    own.scribe.add(1)
    assert own.begun.wait(DEADLINE_S)
    own.scribe.close(0.01)
    assert "could not be written within" in caplog.text
    own.goes_on.set()
    assert own.close() == ["1"]


def test_as_many_entries_as_it_holds_are_few_enough_for_memory() -> None:
    assert MOST_ENTRIES * 1_000 <= 16 * 2**20


@pytest.mark.parametrize(
    ("outcome", "level"), [("answered", "info"), ("abandoned", "info"), (refused("x"), "warning"), (BROKEN, "error")]
)
def test_what_came_of_a_request_is_its_lines_level(outcome: str, level: str) -> None:
    assert level_of(line(entry(outcome=outcome)).decode()) == level


def test_a_models_name_does_not_pass_for_an_outcome() -> None:
    assert level_of(line(entry(model='"outcome":"broken"')).decode()) == "info"


def test_contents_are_written_whole_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ContentLog(tmp_path / "content.log", now=lambda: 0.0)
    assert "CONTENT OF EVERY REQUEST" in caplog.text
    content = log.begin(request_id=b"id", key="abc", path="/v1/completions")
    content.request(b'{"prompt":"h\xc3\xa9"}')
    for piece in (b"one ", b"two \xff"):
        content.answer(piece)
    content.end(200)
    log.close()
    (found,) = lines(tmp_path / "content.log")
    assert found == {
        "time": "1970-01-01T00:00:00.000Z",
        "request_id": "id",
        "key": "abc",
        "path": "/v1/completions",
        "status": 200,
        "request": '{"prompt":"hé"}',
        "answer": "one two \ufffd",
    }
    assert stat.S_IMODE((tmp_path / "content.log").stat().st_mode) == 0o600


def test_long_contents_are_cut_and_say_so(tmp_path: Path) -> None:
    log = ContentLog(tmp_path / "content.log")
    content = log.begin(request_id=b"id", key=None, path="/completion")
    content.request(b"x" * (TEXT_BYTES + 5))
    for _ in range(3):
        content.answer(b"y" * (TEXT_BYTES // 2))
    content.end(None)
    log.close()
    (found,) = lines(tmp_path / "content.log")
    assert found["request"] == "x" * TEXT_BYTES + "…truncated 5 bytes"
    assert found["answer"] == "y" * TEXT_BYTES + f"…truncated {TEXT_BYTES // 2} bytes"
