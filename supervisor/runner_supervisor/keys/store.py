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

PREFIX = "rsk_"
_KEY_BYTES = 32
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE,
    created_s REAL NOT NULL
) STRICT
"""


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _id_of(digest: bytes) -> str:
    return digest.hex()[:12]


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
        digests = [_digest(secret.encode()) for secret in given]
        self._by_digest = {digest: _id_of(digest) for digest in digests}
        with self._connect() as database:
            database.execute(_SCHEMA)
            self._by_digest |= {bytes(row[1]): row[0] for row in database.execute("SELECT id, sha256 FROM keys")}

    def __len__(self) -> int:
        return len(self._by_digest)

    def create(self, name: str) -> str:
        """Make a key and return it: the only time it is ever seen."""
        secret = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        digest = _digest(secret.encode())
        key_id = _id_of(digest)
        with self._connect() as database:
            database.execute(
                "INSERT INTO keys (id, name, sha256, created_s) VALUES (?, ?, ?, ?)",
                (key_id, name, digest, time.time()),
            )
        self._by_digest[digest] = key_id
        self.version += 1
        return secret

    def find(self, secret: bytes) -> str | None:
        """The id of the key that `secret` is, or None."""
        return self._by_digest.get(_digest(secret))

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=5.0)) as database, database:
            yield database
