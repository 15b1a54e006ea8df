"""The file that keys are kept in."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runner_supervisor.core.access import Scope
from runner_supervisor.errors import ConfigError
from runner_supervisor.keys.database import SCHEMA
from runner_supervisor.keys.key import digest_of
from runner_supervisor.keys.store import KeyStore

VERSION_3 = """
CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE, created_s REAL NOT NULL,
    weight REAL NOT NULL DEFAULT 1 CHECK (weight > 0), priority INTEGER NOT NULL DEFAULT 0) STRICT;
PRAGMA user_version = 3;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_all_files_are_for_their_owner_alone_whatever_the_umask(path: Path) -> None:
    with closing(KeyStore(path)) as store:
        store.create("one", scopes=[Scope.INFERENCE])
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    names = ("keys.sqlite", "keys.sqlite-wal", "keys.sqlite-shm", "keys.sqlite.lock")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    KeyStore(path).close()
    path.chmod(0o644)
    KeyStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("beside", ["", "-wal", "-shm"])
def test_a_symlink_is_refused(path: Path, beside: str) -> None:
    KeyStore(path).close()
    link = path.with_name(path.name + beside)
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_bytes(b"")
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link or no file"):
        KeyStore(path)
    assert elsewhere.read_bytes() == b""


def test_a_symlink_to_nothing_is_not_followed(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="is a link or no file"):
        KeyStore(path)
    assert not path.with_name("elsewhere").exists()


def test_a_file_with_a_second_name_is_refused(path: Path) -> None:
    KeyStore(path).close()
    path.with_name("second").hardlink_to(path)
    with pytest.raises(ConfigError, match="has a second name"):
        KeyStore(path)


def test_another_users_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyStore(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match=r"belongs to user .*; run as its owner"):
        KeyStore(path)


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"rsk_" * 1000)
    with pytest.raises(ConfigError, match=r"cannot use the key database .*: file is not a database; restore it"):
        KeyStore(path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot use the key database .*No such file"):
        KeyStore(tmp_path / "missing" / "keys.sqlite")


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    KeyStore(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        with pytest.raises(ConfigError, match="was made by a later version"):
            KeyStore(path)
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)


def test_keys_of_the_third_version_keep_all_they_had(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_3)
        rows = [
            ("a" * 12, "first start", digest_of(b"one"), 5.5, 3.0, 2),
            ("b" * 12, "b", digest_of(b"two"), 6.0, 1.0, 0),
        ]
        database.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", rows)
        database.commit()
    with closing(KeyStore(path)) as store:
        found = store.keys()
        kept = [(key.id, key.name, key.created_s, key.weight, key.priority) for key in found]
        assert kept == [("a" * 12, "first start", 5.5, 3.0, 2), ("b" * 12, "b", 6.0, 1.0, 0)]
        one = store.find(b"one")
        assert one == store.get("first start").principal
        assert one.scopes == {Scope.INFERENCE, Scope.METRICS}
        assert store.find(b"two") == store.get("b").principal
        assert store.locked_down


def test_names_that_were_not_unique_become_so(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_3)
        for number in (2, 1, 3):
            row = (str(number) * 12, "same", digest_of(b"%d" % number), float(number))
            database.execute("INSERT INTO keys (id, name, sha256, created_s) VALUES (?, ?, ?, ?)", row)
        database.commit()
    with closing(KeyStore(path)) as store:
        found = store.keys()
        assert [key.name for key in found] == ["same", "same-222222222222", "same-333333333333"]
