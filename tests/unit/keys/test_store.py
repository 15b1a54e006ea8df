"""API keys in SQLite."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from runner_supervisor.keys.store import KeyStore


def test_a_key_is_known_again_after_a_restart_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    secret = KeyStore(path).create("mine")
    assert re.fullmatch(r"rsk_[A-Za-z0-9_-]{43}", secret)
    store = KeyStore(path)
    assert len(store) == 1
    assert store.find(secret.encode())
    assert store.find(b"rsk_other") is None
    assert secret.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_from_the_settings_count_without_being_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    store = KeyStore(path, given=["one", "two"])
    assert len({store.find(b"one"), store.find(b"two"), None}) == 3
    assert len(KeyStore(path)) == 0


def test_an_older_file_is_brought_up_to_date_and_a_newer_one_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT, sha256 BLOB, created_s REAL) STRICT")
        database.execute("INSERT INTO keys VALUES ('old', 'n', x'00', 0)")
        database.commit()
    assert len(KeyStore(path)) == 1
    store = KeyStore(path)
    share = store.find(store.create("heavy", weight=3, priority=1).encode())
    assert share
    assert (share.weight, share.priority) == (3, 1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")
        database.commit()
        KeyStore(path)
        assert database.execute("PRAGMA user_version").fetchone() == (9,)
