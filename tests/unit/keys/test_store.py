"""Keys: made, found, rotated, revoked."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner_supervisor.core.access import Scope
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.errors import ConfigError, KeysError
from runner_supervisor.keys.database import SCHEMA
from runner_supervisor.keys.key import KeyState
from runner_supervisor.keys.store import KeyStore

INFERENCE = [Scope.INFERENCE]
START_S = 1_800_000_000.0


@dataclass
class Clock:
    """The time, which passes when told."""

    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[KeyStore]:
    with closing(KeyStore(path, now=clock)) as here:
        yield here


@pytest.fixture
def other(path: Path, clock: Clock) -> Iterator[KeyStore]:
    """The same file, as another process has it."""
    with closing(KeyStore(path, now=clock)) as here:
        yield here


def test_a_key_is_known_again_with_all_that_it_was_made_with(path: Path, store: KeyStore) -> None:
    limits = Limits(requests=Quota(60, 60.0), tokens=Quota(1_000_000, 86_400.0), concurrent=4)
    made = store.create(
        "mine",
        scopes=[Scope.METRICS, Scope.ADMIN],
        models=["qwen*", "llama"],
        limits=limits,
        expires_s=START_S + 5,
        weight=2.5,
        priority=-1,
    )
    assert re.fullmatch(r"rsk_[A-Za-z0-9_-]{43}", made.secret)
    with closing(KeyStore(path, now=Clock())) as again:
        assert again.get("mine") == made.key
        principal = again.find(made.secret.encode())
    assert principal == made.key.principal
    assert principal.limits == limits
    assert principal.models == ("qwen*", "llama")
    assert (principal.id, principal.share.weight, principal.share.priority) == (made.key.id, 2.5, -1)
    assert principal.scopes == {Scope.METRICS, Scope.ADMIN}


def test_nothing_but_hashes_is_written(path: Path, store: KeyStore) -> None:
    made = store.create("mine", scopes=INFERENCE)
    secrets = [made.secret, store.rotate("mine", grace_s=9).secret, "imported by its owner"]
    store.import_plain("old", secrets[2:])
    files = [str(file) for file in path.parent.iterdir()]
    assert any(file.endswith("-wal") for file in files)
    for secret in secrets:
        found = subprocess.run(
            ["grep", "-aFe", secret.removeprefix("rsk_"), *files], capture_output=True, check=False
        )
        assert (found.returncode, found.stdout) == (1, b"")


def test_a_wrong_secret_finds_nobody(store: KeyStore) -> None:
    secret = store.create("mine", scopes=INFERENCE).secret.encode()
    for wrong in (b"", b"rsk_", secret[:-1], secret + b"A", secret.upper(), b"\xff" * 40):
        assert store.find(wrong) is None


def test_given_keys_count_without_being_written(path: Path, other: KeyStore) -> None:
    with closing(KeyStore(path, given=["one", "two"])) as store:
        one, two = store.find(b"one"), store.find(b"two")
        assert one
        assert two
        assert one.id != two.id
        assert (one.name, one.scopes) == ("given", {Scope.INFERENCE, Scope.METRICS})
        assert store.locked_down
        assert store.keys() == []
    other.refresh()
    assert not other.locked_down


def test_given_keys_are_replaced(store: KeyStore) -> None:
    kept = store.create("kept", scopes=INFERENCE).secret.encode()
    store.give(["one"])
    before = store.version
    store.give(["two"])
    assert [bool(store.find(secret)) for secret in (b"one", b"two", kept)] == [False, True, True]
    assert store.version != before


def test_a_key_that_is_given_and_revoked_opens_nothing(store: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    store.give(["one"])
    store.import_plain("old", ["one"])
    assert store.find(b"one") == store.get("old-1").principal
    store.revoke("old-1")
    assert store.find(b"one") is None
    store.give(["one"])
    assert store.find(b"one") is None
    assert caplog.text.count("a key in the settings opens nothing") == 1
    assert store.locked_down


def test_a_key_ends_when_it_expires(store: KeyStore, clock: Clock) -> None:
    secret = store.create("short", scopes=INFERENCE, expires_s=START_S + 10).secret.encode()
    assert not store.refresh()
    before = store.version
    clock.now_s += 9.9
    assert not store.refresh()
    assert store.find(secret)
    clock.now_s += 0.1
    assert store.find(secret) is None
    assert store.refresh()
    assert store.version != before
    assert not store.refresh()
    assert store.get("short").state(clock.now_s) is KeyState.EXPIRED


def test_a_secret_that_was_rotated_out_ends_after_its_grace(store: KeyStore, clock: Clock) -> None:
    made = store.create("mine", scopes=INFERENCE)
    new = store.rotate("mine", grace_s=60)
    assert new.key.id == made.key.id
    assert new.key.limits == made.key.limits
    assert store.find(made.secret.encode()) == store.find(new.secret.encode()) == made.key.principal
    clock.now_s += 60
    assert store.refresh()
    assert store.find(made.secret.encode()) is None
    assert store.find(new.secret.encode())
    assert [secret.expires_s for secret in store.get("mine").secrets] == [START_S + 60, None]


def test_a_later_rotation_does_not_lengthen_a_grace(store: KeyStore, clock: Clock) -> None:
    first = store.create("mine", scopes=INFERENCE).secret.encode()
    store.rotate("mine", grace_s=10)
    clock.now_s += 5
    store.rotate("mine", grace_s=100)
    clock.now_s += 5
    assert store.find(first) is None


def test_without_grace_the_older_secret_ends_at_once(store: KeyStore) -> None:
    first = store.create("mine", scopes=INFERENCE).secret.encode()
    store.rotate("mine", grace_s=0)
    assert store.find(first) is None


def test_a_key_that_opens_nothing_is_not_rotated(store: KeyStore, clock: Clock) -> None:
    store.create("gone", scopes=INFERENCE)
    store.revoke("gone")
    store.create("old", scopes=INFERENCE, expires_s=START_S + 1)
    clock.now_s += 1
    for name, state in (("gone", "revoked"), ("old", "expired")):
        with pytest.raises(KeysError, match=rf"the key '{name}' \(.*\) is {state}; make another"):
            store.rotate(name, grace_s=0)


def test_revoking_ends_every_secret_for_good(store: KeyStore, clock: Clock) -> None:
    made = store.create("mine", scopes=INFERENCE)
    new = store.rotate("mine", grace_s=60)
    revoked = store.revoke("mine")
    assert revoked.revoked_s == START_S
    assert [store.find(issued.secret.encode()) for issued in (made, new)] == [None, None]
    clock.now_s += 1
    assert store.revoke(made.key.id).revoked_s == START_S


def test_revoking_the_last_key_does_not_open_the_door(path: Path, store: KeyStore) -> None:
    assert not store.locked_down
    store.create("only", scopes=INFERENCE)
    store.revoke("only")
    assert store.keys() == []
    assert store.locked_down
    with closing(KeyStore(path)) as again:
        assert again.locked_down


def test_a_key_that_has_expired_keeps_the_door_closed(store: KeyStore, clock: Clock) -> None:
    store.create("only", scopes=INFERENCE, expires_s=START_S + 1)
    clock.now_s += 2
    store.refresh()
    assert store.locked_down


def test_another_process_is_noticed_and_silence_is_not(store: KeyStore, other: KeyStore) -> None:
    assert not store.refresh()
    made = other.create("theirs", scopes=INFERENCE)
    assert store.find(made.secret.encode()) is None
    before = store.version
    assert store.refresh()
    assert store.version != before
    assert store.find(made.secret.encode()) == made.key.principal
    assert store.locked_down
    assert not store.refresh()
    other.revoke("theirs")
    assert store.refresh()
    assert store.find(made.secret.encode()) is None


def test_a_database_that_cannot_be_read_keeps_the_keys_and_is_logged_once(
    path: Path, store: KeyStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store.create("kept", scopes=INFERENCE).secret.encode()
    ending = store.create("ending", scopes=INFERENCE, expires_s=START_S + 10).secret.encode()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        assert not store.refresh()
        assert not store.refresh()
        assert store.find(kept)
        clock.now_s += 10
        assert store.refresh()
        assert store.find(kept)
        assert store.find(ending) is None
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        database.execute(f"PRAGMA user_version = {SCHEMA}")
    assert store.refresh()
    assert store.find(kept)


def test_settings_are_not_taken_while_the_database_cannot_be_read(path: Path, store: KeyStore) -> None:
    store.give(["one"])
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        with pytest.raises(ConfigError, match="later version"):
            store.give(["two"])
    assert store.find(b"one")
    assert store.find(b"two") is None


@pytest.mark.parametrize("scopes", ['["everything"]', "inference", "5"])
def test_a_value_that_nobody_knows_opens_nothing_and_closes_nothing(path: Path, store: KeyStore, scopes: str) -> None:
    secret = store.create("mine", scopes=INFERENCE).secret.encode()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE keys SET scopes = ?", (scopes,))
    assert not store.refresh()
    assert store.find(secret)
    with pytest.raises(ConfigError, match="is damaged"):
        KeyStore(path)


def test_a_file_that_is_deleted_opens_nothing(path: Path, store: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    secret = store.create("mine", scopes=INFERENCE).secret.encode()
    path.unlink()
    assert not store.refresh()
    assert store.find(secret)
    assert store.locked_down
    assert "No such file" in caplog.text


def test_a_file_put_in_its_place_is_read_and_does_not_open_the_door(path: Path, store: KeyStore) -> None:
    secret = store.create("mine", scopes=INFERENCE).secret.encode()
    new = path.with_name("new.sqlite")
    KeyStore(new).close()
    for file in path.parent.glob("keys.sqlite*"):
        file.unlink()
    new.rename(path)
    assert store.refresh()
    assert store.find(secret) is None
    assert store.locked_down
    with closing(KeyStore(path)) as other:
        made = other.create("again", scopes=INFERENCE)
    assert store.refresh()
    assert store.find(made.secret.encode())


def test_a_name_is_used_once_until_its_key_is_revoked(store: KeyStore) -> None:
    first = store.create("ci", scopes=INFERENCE)
    with pytest.raises(KeysError, match=rf"there is a key 'ci' already \({first.key.id}\)"):
        store.create("ci", scopes=INFERENCE)
    store.revoke("ci")
    second = store.create("ci", scopes=INFERENCE)
    assert store.get("ci") == second.key
    assert store.get(first.key.id).revoked_s
    assert [key.id for key in store.keys(revoked=True)] == [first.key.id, second.key.id]


@pytest.mark.parametrize("name", ["", " ci", "ci\n", "a\x1b[31m", "x" * 101, "0123456789ab", "--all", "\udcff"])
def test_a_bad_name_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(KeysError, match=r"is no name for a key|could be taken for an"):
        store.create(name, scopes=INFERENCE)
    assert not store.locked_down


def test_what_could_be_of_no_use_is_refused(store: KeyStore) -> None:
    with pytest.raises(KeysError, match="give it a scope"):
        store.create("ci", scopes=[])
    with pytest.raises(KeysError, match="would have expired already"):
        store.create("ci", scopes=INFERENCE, expires_s=START_S)
    with pytest.raises(KeysError, match="'' is no pattern"):
        store.create("ci", scopes=INFERENCE, models=[""])
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(KeysError, match="is no weight"):
            store.create("ci", scopes=INFERENCE, weight=weight)


def test_a_key_is_named_by_its_ids_beginning(store: KeyStore) -> None:
    made = store.create("ci", scopes=INFERENCE)
    assert store.get(made.key.id[:6]) == made.key
    with pytest.raises(KeysError, match="there is no key"):
        store.get(made.key.id[:5])


def test_an_unknown_key_is_told_which_is_like_it(store: KeyStore) -> None:
    store.create("laptop", scopes=INFERENCE)
    with pytest.raises(KeysError, match="there is no key 'latpop'; did you mean 'laptop'"):
        store.get("latpop")
    with pytest.raises(KeysError, match=r"there is no key 'x'; `runner-supervisor keys list --all`"):
        store.get("x")


def test_of_several_revoked_keys_of_a_name_the_id_says_which(store: KeyStore) -> None:
    for _ in range(2):
        store.create("ci", scopes=INFERENCE)
        store.revoke("ci")
    with pytest.raises(KeysError, match=r"'ci' may be any of the keys .*; name one by its id"):
        store.get("ci")


def test_imported_keys_open_what_given_ones_do_and_keep_their_ids(store: KeyStore) -> None:
    store.give(["one"])
    given = store.find(b"one")
    assert given
    new = store.import_plain("old", ["one", "two", "one"])
    assert [key.name for key in new] == ["old-1", "old-2"]
    assert given.id in {key.id for key in new}
    two = store.find(b"two")
    assert two
    assert two.scopes == given.scopes


def test_importing_again_adds_what_is_new_alone(store: KeyStore) -> None:
    store.import_plain("old", ["one", "two"])
    store.revoke("old-1")
    assert [key.name for key in store.import_plain("old", ["one", "two", "three"])] == ["old-3"]
    assert store.find(b"one") is None


@pytest.fixture
def aged(path: Path, store: KeyStore, other: KeyStore) -> Path:
    """A database that nobody has written for a minute, by its files' times, and that has been looked at since."""
    other.create("first", scopes=INFERENCE)
    for name in (path, path.with_name(f"{path.name}-wal")):
        written_s = name.stat().st_mtime - 60
        os.utime(name, (written_s, written_s))
    assert store.refresh()
    return path


@pytest.mark.usefixtures("aged")
def test_a_database_that_was_not_written_for_a_while_is_not_asked(store: KeyStore) -> None:
    asked: list[str] = []
    store._database.set_trace_callback(asked.append)
    assert not store.refresh()
    assert asked == []


@pytest.mark.usefixtures("aged")
def test_what_is_written_after_a_long_silence_is_noticed(store: KeyStore, other: KeyStore) -> None:
    assert not store.refresh()
    issued = other.create("second", scopes=INFERENCE)
    assert store.refresh()
    assert store.find(issued.secret.encode())


def test_what_is_written_within_one_tick_of_the_clock_is_noticed(
    store: KeyStore, other: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = (time.time_ns(), 4096, 1)
    monkeypatch.setattr("runner_supervisor.keys.store._last_write", lambda *_, **__: same)
    assert not store.refresh()
    other.create("one", scopes=INFERENCE)
    assert store.refresh()
