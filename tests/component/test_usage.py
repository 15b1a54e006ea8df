"""What keys have used, over restarts, kills and trouble with the disk."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Limit, Limits, Quota
from runner_supervisor.errors import ConfigError, UsageError
from runner_supervisor.keys.limits import DAY_S, Count, Counts, LocalLimits, Standing
from runner_supervisor.keys.usage import DAYS_KEPT, UsageBook, keep

DAY = 20_000
NOW = float(DAY * DAY_S)
KEY = Principal(Share("a"), "a", limits=Limits(Quota(5, 3600.0), Quota(100, 3600.0)))
DEADLINE_S = 10.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[UsageBook]:
    with closing(UsageBook(path, now=lambda: NOW)) as book:
        yield book


@pytest.fixture
def blocked(path: Path) -> Path:
    """A name that something else has."""
    path.mkdir()
    return path


def standing(key: str = "a", until_s: float = NOW + 60) -> Standing:
    return Standing(key, 2.5, NOW - 1, NOW - 60, 30, until_s)


class Tried(UsageBook):
    """Counts how often it was written to."""

    tries = 0

    def save(self, standings: list[Standing], counts: Counts) -> None:
        self.tries += 1
        super().save(standings, counts)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_what_was_saved_is_loaded(book: UsageBook) -> None:
    book.save([standing("a"), standing("b")], {})
    book.close()
    assert sorted(book.load()) == [standing("a"), standing("b")]


def test_a_standing_replaces_the_one_before(book: UsageBook) -> None:
    book.save([standing()], {})
    newer = standing()._replace(spent=1.0)
    book.save([newer], {})
    assert book.load() == [newer]


def test_what_limits_need_no_more_is_dropped(path: Path, book: UsageBook) -> None:
    book.save([standing("old", NOW + 1), standing("new", NOW + 100)], {})
    with closing(UsageBook(path, now=lambda: NOW + 50)) as later:
        assert [each.key for each in later.load()] == ["new"]
        later.save([], {})
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM standings").fetchone() == (1,)


def test_counts_add_up_by_day(book: UsageBook) -> None:
    book.save([], {("a", DAY): Count(1, 2, 3), ("b", DAY): Count(9)})
    book.save([], {("a", DAY): Count(1, 1, 1), ("a", DAY + 1): Count(5)})
    assert book.by_day("a") == [(DAY, Count(2, 3, 4)), (DAY + 1, Count(5))]
    assert book.by_day("stranger") == []


def test_days_of_more_than_a_year_ago_are_dropped(path: Path, book: UsageBook) -> None:
    book.save([], {("a", DAY): Count(1), ("a", DAY + 1): Count(2)})
    with closing(UsageBook(path, now=lambda: NOW + DAYS_KEPT * DAY_S)) as later:
        later.save([], {("a", DAY + DAYS_KEPT): Count(3)})
        assert [day for day, _ in later.by_day("a")] == [DAY + 1, DAY + DAYS_KEPT]


@pytest.mark.parametrize("beside", [(), ("-wal", "-shm")])
def test_a_file_that_was_removed_is_made_anew(path: Path, book: UsageBook, beside: tuple[str, ...]) -> None:
    book.save([standing("lost")], {})
    for end in ("", *beside):
        path.with_name(path.name + end).unlink()
    book.save([standing("kept")], {})
    book.close()
    assert [each.key for each in book.load()] == ["kept"]


def test_what_is_saved_at_once_is_seen_by_others(path: Path, book: UsageBook) -> None:
    book.save([standing()], {})
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM standings").fetchone() == (1,)


def test_ten_thousand_keys_are_kept_and_loaded(book: UsageBook) -> None:
    many = [standing(f"{number:05}") for number in range(10_000)]
    book.save(many, {(each.key, DAY): Count(1) for each in many})
    assert book.load() == many


def test_its_files_are_for_their_owner_alone(path: Path, book: UsageBook) -> None:
    before = os.umask(0)
    try:
        book.load()
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("SELECT * FROM standings").fetchall()
            book.save([standing()], {})
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_link_under_its_name_is_refused(path: Path, book: UsageBook, tmp_path: Path, end: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    path.with_name(path.name + end).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link"):
        book.load()
    assert not elsewhere.exists()


def test_a_file_of_a_later_version_is_refused(path: Path, book: UsageBook) -> None:
    book.load()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="later version"):
        book.load()


def test_a_broken_file_is_logged_and_taken_for_empty(
    path: Path, book: UsageBook, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"nothing that SQLite has written" * 100)
    assert book.load() == []
    assert "limits begin anew" in caplog.text
    with pytest.raises(UsageError, match="not a database"):
        book.save([standing()], {})


async def test_changes_are_written_while_it_goes_on(book: UsageBook) -> None:
    limits = LocalLimits()
    task = asyncio.create_task(keep(limits, book, every_s=0.01))
    try:
        limits.decide(KEY)
        await until(lambda: [each.key for each in book.load()] == ["a"])
    finally:
        await cancel(task)


async def test_what_is_left_is_written_at_the_end(book: UsageBook) -> None:
    limits = LocalLimits()
    task = asyncio.create_task(keep(limits, book, every_s=3600))
    await asyncio.sleep(0)
    limits.decide(KEY)
    await cancel(task)
    assert [count for _, count in book.by_day("a")] == [Count(1)]


async def test_trouble_is_logged_once_and_nothing_is_lost_or_counted_twice(
    blocked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits, book = LocalLimits(), Tried(blocked)
    task = asyncio.create_task(keep(limits, book, every_s=0.01))
    try:
        limits.decide(KEY)
        await until(lambda: book.tries >= 3)
        assert caplog.text.count("limits go on in memory") == 1
        limits.decide(KEY)
        await asyncio.to_thread(blocked.rmdir)
        await until(lambda: "written again" in caplog.text)
    finally:
        await cancel(task)
    assert [count for _, count in book.by_day("a")] == [Count(2)]
    book.close()


KILLED = """
import asyncio, sys
from pathlib import Path
from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.usage import UsageBook, keep

async def main():
    limits, book = LocalLimits(), UsageBook(Path(sys.argv[1]))
    key = Principal(Share("a"), "a", limits=Limits(Quota(5, 3600.0), Quota(100, 3600.0)))
    for _ in range(5):
        limits.decide(key)
    task = asyncio.create_task(keep(limits, book, every_s=0.01))
    while len(book.by_day("a")) == 0:
        await asyncio.sleep(0.005)
    print("written", flush=True)
    await task

asyncio.run(main())
"""


def test_a_budget_that_was_used_up_is_so_after_a_kill(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    limits = LocalLimits()
    with closing(UsageBook(path)) as book:
        limits.restore(book.load())
    assert limits.decide(KEY).exceeded is Limit.REQUESTS
