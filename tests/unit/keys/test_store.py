"""API keys in SQLite."""

from __future__ import annotations

import re
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
