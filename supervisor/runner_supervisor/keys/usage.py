"""What keys have used, kept over restarts: what their limits need, and what each used on each day.

Written by one task, at most once a second and off the event loop: a supervisor that is killed loses at most that
second (and `front.ledger.GATHER_S` of the counts of keys without limits). The disk is not waited for: a power cut
may take what the kernel had not written yet. While the disk fails, limits go on in memory, and what could not be
written is written later.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner_supervisor.errors import ConfigError, UsageError
from runner_supervisor.keys.limits import DAY_S, Count, Counts, LocalLimits, Standing
from runner_supervisor.private import Identity, identity, own_database

EVERY_S = 1.0
"""How often what has changed is written."""

BUSY_S = 1.0
"""How long to wait for another process that reads or writes."""

DAYS_KEPT = 400

_SCHEMA = 1
_TABLES = (
    """CREATE TABLE standings (
        key TEXT PRIMARY KEY,
        spent REAL NOT NULL,
        at_s REAL NOT NULL,
        window_s REAL NOT NULL,
        tokens INTEGER NOT NULL,
        until_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE days (
        key TEXT NOT NULL,
        day INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        generated_tokens INTEGER NOT NULL,
        PRIMARY KEY (key, day)
    ) STRICT, WITHOUT ROWID""",
)
_KEEP_STANDING = "INSERT OR REPLACE INTO standings VALUES (?, ?, ?, ?, ?, ?)"
_ADD_COUNT = """INSERT INTO days VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    generated_tokens = generated_tokens + excluded.generated_tokens"""

log = logging.getLogger(__name__)


class UsageBook:
    """One file of what keys have used (mode 0600). Its methods block; threads may call them.

    It stays open in between, as opening it costs more than writing to it. After a fault, or when the file was
    removed, it is opened anew.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Nothing is opened yet. `now`: seconds since the epoch."""
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._pruned_day = 0

    def close(self) -> None:
        """Close the file. It is opened again when it is needed."""
        with self._lock:
            self._close()

    def load(self) -> list[Standing]:
        """What limits still need to know. A file that cannot be read is logged, and taken for an empty one.

        Raises:
            ConfigError: it is not a file of ours alone, or a later version made it.
        """
        try:
            with self._transaction() as database:
                rows = database.execute("SELECT * FROM standings WHERE until_s > ?", (self._now(),))
                return [Standing(*row) for row in rows]
        except UsageError as error:
            log.warning("%s; limits begin anew", error)
            return []

    def save(self, standings: list[Standing], counts: Counts) -> None:
        """Write all of it, or nothing. Standings replace older ones; counts are added up.

        Raises:
            UsageError: the file cannot be written now.
            ConfigError: it is not a file of ours alone, or a later version made it.
        """
        now = self._now()
        today = int(now // DAY_S)
        with self._transaction() as database:
            database.executemany(_KEEP_STANDING, standings)
            database.execute("DELETE FROM standings WHERE until_s <= ?", (now,))
            database.executemany(
                _ADD_COUNT,
                (
                    (key, day, count.requests, count.prompt_tokens, count.generated_tokens)
                    for (key, day), count in counts.items()
                ),
            )
            if today != self._pruned_day:
                database.execute("DELETE FROM days WHERE day <= ?", (today - DAYS_KEPT,))
        self._pruned_day = today

    def by_day(self, key: str) -> list[tuple[int, Count]]:
        """What a key used on each day, the oldest first. Days are counted from the epoch, in UTC.

        Raises:
            UsageError: the file cannot be read now.
            ConfigError: it is not a file of ours alone, or a later version made it.
        """
        asked = "SELECT day, requests, prompt_tokens, generated_tokens FROM days WHERE key = ? ORDER BY day"
        with self._transaction() as database:
            return [(day, Count(*used)) for day, *used in database.execute(asked, (key,))]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._opened() as database, database:
                database.execute("BEGIN IMMEDIATE")
                self._prepare(database)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                f"cannot use {self._path}, where it is kept what keys have used: {error}; free space, or remove it"
            ) from None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The file that has its name now. Whatever goes wrong closes it."""
        try:
            if self._database is None or identity(self._path) != self._identity:
                self._close()
                own_database(self._path)
                self._identity = identity(self._path)
                self._database = sqlite3.connect(
                    self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
                )
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
            yield self._database
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        database, self._database = self._database, None
        if database:
            database.close()

    def _prepare(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA:
            raise ConfigError(
                f"{self._path} was made by a later version of runner-supervisor; use that one, or remove the file: "
                "limits begin anew then"
            )
        if version < _SCHEMA:
            for table in _TABLES:
                database.execute(table)
            database.execute(f"PRAGMA user_version = {_SCHEMA}")


async def keep(limits: LocalLimits, book: UsageBook, *, every_s: float = EVERY_S) -> None:
    """Write to `book` what changes in `limits`, until cancelled; what is left is written then.

    Trouble is logged when it begins and when it ends.
    """
    keeper = _Keeper(limits, book)
    writing: asyncio.Task[None] | None = None
    try:
        while True:
            await asyncio.sleep(every_s)
            writing = asyncio.create_task(keeper.write())
            await asyncio.shield(writing)  # a thread that writes cannot be cancelled
    finally:
        if writing is not None:
            await writing
        await keeper.write()


class _Keeper:
    """Writes what has changed, and remembers whether that failed."""

    def __init__(self, limits: LocalLimits, book: UsageBook) -> None:
        self._limits = limits
        self._book = book
        self._failing = False

    async def write(self) -> None:
        standings, counts = self._limits.changes()
        if not standings and not counts:
            return
        try:
            await asyncio.to_thread(self._book.save, standings, counts)
        except (UsageError, ConfigError) as error:
            self._limits.give_back(standings, counts)
            if not self._failing:
                log.warning("%s; limits go on in memory, and it is tried again", error)
            self._failing = True
        else:
            if self._failing:
                log.info("what keys have used is written again")
            self._failing = False
