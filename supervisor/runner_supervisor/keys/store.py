"""API keys, kept as hashes in SQLite.

A key is `rsk_` and 256 random bits, so a plain SHA-256 of it is as good as any slow hash: slow hashes make
guessing weak secrets dear, and a 256-bit secret cannot be guessed at all.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from runner_supervisor.core.admission import Share

PREFIX = "rsk_"
_KEY_BYTES = 32
_MIGRATIONS = (
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        sha256 BLOB NOT NULL UNIQUE,
        created_s REAL NOT NULL
    ) STRICT""",
    "ALTER TABLE keys ADD COLUMN weight REAL NOT NULL DEFAULT 1 CHECK (weight > 0)",
    "ALTER TABLE keys ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
)
"""What made the tables what they are, in order; SQLite's user_version counts those done."""


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _id_of(digest: bytes) -> str:
    return digest.hex()[:12]


def _migrate(database: sqlite3.Connection) -> None:
    database.execute("BEGIN IMMEDIATE")  # all of them or none
    (done,) = database.execute("PRAGMA user_version").fetchone()
    if done < len(_MIGRATIONS):
        for statement in _MIGRATIONS[done:]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


class KeyStore:
    """The keys in one database file (mode 0600), with those given in the settings on top.

    Looking a key up compares digests, and a digest tells nothing of the key it was made of, so how long a
    comparison takes is no help to a guesser. `version` changes with the keys: what was found before may be kept
    as long as it stays the same.
    """

    def __init__(self, path: Path, *, given: Iterable[str] = ()) -> None:
        self._path = path
        self.version = 0
        path.touch(mode=0o600)
        self._by_digest: dict[bytes, Share] = {}
        with self._connect() as database:
            _migrate(database)
        self.give(given)

    def __len__(self) -> int:
        return len(self._by_digest)

    def give(self, given: Iterable[str]) -> None:
        """Replace the keys given in the settings; those in the database are read again."""
        digests = [_digest(secret.encode()) for secret in given]
        known = {digest: Share(_id_of(digest)) for digest in digests}
        with self._connect() as database:
            rows = database.execute("SELECT sha256, id, weight, priority FROM keys")
            known |= {bytes(digest): Share(*row) for digest, *row in rows}
        self._by_digest = known
        self.version += 1

    def create(self, name: str, *, weight: float = 1.0, priority: int = 0) -> str:
        """Make a key and return it: the only time it is ever seen.

        Args:
            name: for people.
            weight: how many slots it gets for each one of a key of weight 1, when both wait.
            priority: among those that wait, keys of higher priority go first.
        """
        secret = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        digest = _digest(secret.encode())
        key_id = _id_of(digest)
        with self._connect() as database:
            database.execute(
                "INSERT INTO keys (id, name, sha256, created_s, weight, priority) VALUES (?, ?, ?, ?, ?, ?)",
                (key_id, name, digest, time.time(), weight, priority),
            )
        self._by_digest[digest] = Share(key_id, weight, priority)
        self.version += 1
        return secret

    def find(self, secret: bytes) -> Share | None:
        """What the key that `secret` is is entitled to, or None: there is no such key."""
        return self._by_digest.get(_digest(secret))

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=5.0)) as database, database:
            yield database
