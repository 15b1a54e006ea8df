"""The file that keys are kept in: made for its owner alone, of today's shape, or refused."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import filelock

from runner_supervisor.errors import ConfigError
from runner_supervisor.private import FILE_MODE, open_private, own_database

BUSY_S = 5.0
"""How long a writer waits for another one."""

_MIGRATIONS = (
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        sha256 BLOB NOT NULL UNIQUE,
        created_s REAL NOT NULL
    ) STRICT""",
    "ALTER TABLE keys ADD COLUMN weight REAL NOT NULL DEFAULT 1 CHECK (weight > 0)",
    "ALTER TABLE keys ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE keys RENAME TO old_keys",
    """CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        models TEXT NOT NULL,
        requests INTEGER CHECK (requests > 0),
        requests_period_s REAL CHECK (requests_period_s > 0),
        tokens INTEGER CHECK (tokens > 0),
        tokens_period_s REAL CHECK (tokens_period_s > 0),
        concurrent INTEGER CHECK (concurrent > 0),
        weight REAL NOT NULL CHECK (weight > 0),
        priority INTEGER NOT NULL,
        created_s REAL NOT NULL,
        expires_s REAL,
        revoked_s REAL
    ) STRICT""",
    """CREATE TABLE secrets (
        sha256 BLOB PRIMARY KEY,
        key_id TEXT NOT NULL REFERENCES keys (id),
        created_s REAL NOT NULL,
        expires_s REAL
    ) STRICT, WITHOUT ROWID""",
    # Names were not unique; of several the oldest keeps it.
    """INSERT INTO keys (id, name, scopes, models, weight, priority, created_s)
        SELECT id,
            iif(row_number() OVER (PARTITION BY name ORDER BY created_s, id) = 1, name, name || '-' || id),
            '["inference","metrics"]', '[]', weight, priority, created_s
        FROM old_keys""",
    "INSERT INTO secrets (sha256, key_id, created_s) SELECT sha256, id, created_s FROM old_keys",
    "DROP TABLE old_keys",
    "CREATE UNIQUE INDEX names_in_use ON keys (name) WHERE revoked_s IS NULL",
    "CREATE INDEX secrets_of_keys ON secrets (key_id)",
)
"""What made the tables what they are, in order; SQLite's user_version counts those done."""

SCHEMA = len(_MIGRATIONS)


def prepare(path: Path) -> None:
    """Make the file if there is none, and bring its tables up to date.

    Raises:
        ConfigError: it is not a file of ours alone, cannot be read or written, or a later version made it.
    """
    with explained(path):
        own_database(path)
        # SQLite fails instead of waiting where two processes turn a new file to WAL at once.
        name = path.with_name(f"{path.name}.lock")
        os.close(open_private(name))  # filelock may follow links to other files
        lock = filelock.FileLock(name, timeout=BUSY_S, mode=FILE_MODE)
        with lock, closing(connect(path, busy_s=BUSY_S)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            with transaction(database):
                done = check_version(database, path)
                if done < SCHEMA:
                    for statement in _MIGRATIONS[done:]:
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {SCHEMA}")


def connect(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """Open a file that exists; transactions begin when told. `busy_s`: how long to wait for other processes."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Write all that is written within, or nothing."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        yield


def check_version(database: sqlite3.Connection, path: Path) -> int:
    """How many of the migrations were done.

    Raises:
        ConfigError: more than we know.
    """
    done = int(database.execute("PRAGMA user_version").fetchone()[0])
    if done > SCHEMA:
        raise ConfigError(
            f"the key database {path} was made by a later version of runner-supervisor; use that one, "
            "or name another folder with --state-dir"
        )
    return done


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what SQLite and the file system have against the file as a ConfigError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(
            f"cannot use the key database {path}: {error}; restore it, or name another folder with --state-dir"
        ) from None
