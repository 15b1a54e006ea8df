"""API keys in SQLite: made, found, rotated, revoked, by several processes at once.

Whoever makes or revokes a key writes the database; a running supervisor notices (`refresh`) and never asks the
database for a request.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner_supervisor.core.access import Principal, Scope
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import NO_LIMITS, Limits
from runner_supervisor.errors import ConfigError, KeysError
from runner_supervisor.keys import rows
from runner_supervisor.keys.database import BUSY_S, check_version, connect, explained, prepare, transaction
from runner_supervisor.keys.key import Issued, Key, KeyState, digest_of, id_of, new_secret
from runner_supervisor.keys.refs import check_name, resolve
from runner_supervisor.private import identity

logger = logging.getLogger(__name__)

SETTLED_NS = 1_000_000_000
"""How old a file's last write must be for the next one to have another time, in nanoseconds, by far."""

GIVEN_NAME = "given"
GIVEN_SCOPES = frozenset({Scope.INFERENCE, Scope.METRICS})


class KeyStore:
    """The keys in one database file, with those given in the settings on top. Used by one thread.

    `version` changes whenever `find` may answer otherwise than before: what it answered may be kept as long as it
    stays the same. What the database knows of a secret goes before what the settings say: a revoked one that is
    given too opens nothing.
    """

    def __init__(self, path: Path, *, given: Iterable[str] = (), now: Callable[[], float] = time.time) -> None:
        """Open the database, or make it.

        Args:
            path: the file.
            given: secrets from the settings, as for `give`.
            now: the time, in seconds since the epoch.

        Raises:
            ConfigError: the file is not ours alone, or cannot be used.
        """
        self.version = 0
        self._path = path
        self._name = str(path)
        self._now = now
        self._given: frozenset[bytes] = frozenset()
        self._entries: dict[bytes, rows.Entry] = {}
        self._next_end_s = math.inf
        self._any_made = False
        self._failing = False
        self._overruled: frozenset[bytes] = frozenset()
        self._seen: int | None = None
        self._marks: tuple[tuple[int, int, int], ...] = ()
        self._open()
        try:
            self.give(given)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database. `find` goes on answering."""
        self._database.close()

    @property
    def locked_down(self) -> bool:
        """Whether a key is needed: one was ever made (it may be revoked or have expired since), or is given."""
        return self._any_made or bool(self._given)

    def find(self, secret: bytes) -> Principal | None:
        """Who comes with this secret, if it opens anything now; else None. Reads nothing but memory.

        The secret's digest is looked up, and a digest tells nothing of the secret it was made of, so how long that
        takes is no help to a guesser.
        """
        digest = digest_of(secret)
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        return entry.principal if entry.until_s is None or self._now() < entry.until_s else None

    def refresh(self) -> bool:
        """Take in what other processes have written, and let go what has ended. Whether `find` may answer otherwise.

        Cheap when nothing has changed. While the database cannot be read, the keys stay as they were, but for those
        that end; that is logged once.
        """
        before = self.version
        try:
            with explained(self._path):
                self._take_in()
            self._failing = False
        except ConfigError as error:
            if not self._failing:
                logger.log(logging.ERROR, "%s; until then the keys stay as they were", error)
            self._failing = True
        if (now_s := self._now()) >= self._next_end_s:
            self._use(
                {
                    digest: entry
                    for digest, entry in self._entries.items()
                    if entry.until_s is None or entry.until_s > now_s
                }
            )
        return self.version != before

    def give(self, given: Iterable[str]) -> None:
        """Replace the keys given in the settings. They are for inference and metrics, and are not written.

        Raises:
            ConfigError: the database cannot be read; all keys are as they were.
        """
        with explained(self._path):
            self._read(frozenset(digest_of(secret.encode()) for secret in given))

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[Scope],
        models: Iterable[str] = (),
        limits: Limits = NO_LIMITS,
        expires_s: float | None = None,
        weight: float = 1.0,
        priority: int = 0,
    ) -> Issued:
        """Make a key, and return it with its secret: the only time that is ever seen.

        Args:
            name: for people; no other key that is not revoked may have it.
            scopes: what it is for, at least one.
            models: shell patterns of models that it is for; none: any.
            limits: how much it may use.
            expires_s: when it ends, in seconds since the epoch; None: never.
            weight: how many slots it gets for each one of a key of weight 1, when both wait.
            priority: among those that wait, keys of higher priority go first.

        Raises:
            KeysError: the name is taken or bad, or a value is.
            ConfigError: the database cannot be written.
        """
        secret = new_secret()
        with self._writing() as database:
            key_id = self._add(
                database,
                secret,
                name=name,
                scopes=scopes,
                models=models,
                limits=limits,
                expires_s=expires_s,
                weight=weight,
                priority=priority,
            )
        return Issued(self.get(key_id), secret)

    def import_plain(self, name: str, secrets: Iterable[str]) -> list[Key]:
        """Keep the hashes of secrets that were chosen elsewhere, each as a key of its own, as for given ones.

        They get names of their own, `name` and a number. One that is known already stays as it is, revoked or not.

        Returns:
            The keys that are new.

        Raises:
            KeysError: the name is a bad one.
            ConfigError: the database cannot be written.
        """
        with self._writing() as database:
            names = {key.name for key in rows.read_keys(database)}
            free = (numbered for number in itertools.count(1) if (numbered := f"{name}-{number}") not in names)
            made = {
                self._add(database, secret, name=next(free), scopes=GIVEN_SCOPES)
                for secret in dict.fromkeys(secrets)
                if not _is_known(database, digest_of(secret.encode()))
            }
        return [key for key in self.keys() if key.id in made]

    def keys(self, *, revoked: bool = False) -> list[Key]:
        """The keys in the database, oldest first; with those that are revoked, if asked for.

        Raises:
            ConfigError: the database cannot be read.
        """
        with explained(self._path), self._reading() as database:
            return [key for key in rows.read_keys(database) if revoked or key.revoked_s is None]

    def get(self, ref: str) -> Key:
        """The key of this name, id, or beginning of an id, revoked or not.

        Raises:
            KeysError: there is none, or there are several.
            ConfigError: the database cannot be read.
        """
        return resolve(ref, self.keys(revoked=True))

    def revoke(self, ref: str) -> Key:
        """Let a key open nothing any more, for good. One that is revoked stays as it is.

        Raises:
            KeysError, ConfigError: as for `get`.
        """
        with self._writing() as database:
            key = resolve(ref, rows.read_keys(database))
            database.execute(
                "UPDATE keys SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL", (self._now(), key.id)
            )
        return self.get(key.id)

    def rotate(self, ref: str, *, grace_s: float) -> Issued:
        """Give a key another secret, the only time that is seen; the older ones end `grace_s` seconds from now.

        Raises:
            KeysError: as for `get`, or the key is revoked or has expired.
            ConfigError: the database cannot be written.
        """
        secret = new_secret()
        with self._writing() as database:
            key, now_s = resolve(ref, rows.read_keys(database)), self._now()
            if (state := key.state(now_s)) is not KeyState.ACTIVE:
                raise KeysError(f"the key {key.name!r} ({key.id}) is {state}; make another with `keys create`")
            database.execute(
                "UPDATE secrets SET expires_s = min(coalesce(expires_s, ?1), ?1) WHERE key_id = ?2",
                (now_s + grace_s, key.id),
            )
            rows.add_secret(database, digest=digest_of(secret.encode()), key_id=key.id, created_s=now_s)
        return Issued(self.get(key.id), secret)

    def _add(
        self,
        database: sqlite3.Connection,
        secret: str,
        *,
        name: str,
        scopes: Iterable[Scope],
        models: Iterable[str] = (),
        limits: Limits = NO_LIMITS,
        expires_s: float | None = None,
        weight: float = 1.0,
        priority: int = 0,
    ) -> str:
        """Write a key and its first secret, if it is as it should be, and return its id."""
        digest = digest_of(secret.encode())
        key = Key(
            id=id_of(digest),
            name=check_name(name),
            scopes=frozenset(scopes),
            models=tuple(models),
            limits=limits,
            weight=weight,
            priority=priority,
            created_s=self._now(),
            expires_s=expires_s,
            revoked_s=None,
            secrets=(),
        )
        _check(key)
        taken = database.execute("SELECT id FROM keys WHERE name = ? AND revoked_s IS NULL", (name,)).fetchone()
        if taken:
            raise KeysError(
                f"there is a key {name!r} already ({taken[0]}); choose another name, "
                "or `runner-supervisor keys rotate` it for a new secret"
            )
        rows.add_key(database, key)
        rows.add_secret(database, digest=digest, key_id=key.id, created_s=key.created_s)
        return key.id

    def _open(self) -> None:
        """Open the file that is there now, to be read whole."""
        prepare(self._path)
        with explained(self._path):
            file = identity(self._path)  # before it is opened: one put in its place meanwhile is noticed
            self._database = connect(self._path, busy_s=BUSY_S)
            self._database.execute("PRAGMA query_only = ON")
            self._database.execute("SELECT 1 FROM keys LIMIT 1")  # what waits for other processes waits here
            self._database.execute("PRAGMA busy_timeout = 0")  # requests are served by the thread that refreshes
            self._seen = None
            self._identity = file

    def _data_version(self) -> int:
        """A number that SQLite changes with every commit of another connection."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def _take_in(self) -> None:
        """Read the database again if somebody has written it, or put another in its place."""
        marks = (_last_write(self._name), _last_write(f"{self._name}-wal", missing_ok=True))
        if marks == self._marks:
            return
        now_ns = time.time_ns()
        if identity(self._path) != self._identity:
            self._database.close()
            self._open()
            self._read(self._given)
        elif self._data_version() != self._seen:
            self._read(self._given)
        # What is written within the same tick of the kernel's clock, now, would leave the same marks.
        self._marks = marks if all(now_ns - mark[0] > SETTLED_NS for mark in marks) else ()

    def _read(self, given: frozenset[bytes]) -> None:
        """Read who may come in. All or nothing: an error leaves the keys as they were."""
        seen, now_s = self._data_version(), self._now()
        with self._reading() as database:
            entries = rows.read_entries(database, now_s=now_s)
            any_made = bool(database.execute("SELECT EXISTS (SELECT 1 FROM keys)").fetchone()[0])
            overruled = frozenset(key for key in given - entries.keys() if _is_known(database, key))
        for digest in overruled - self._overruled:
            logger.warning("a key in the settings opens nothing: %s was revoked or has expired", id_of(digest))
        for digest in given - overruled - entries.keys():
            principal = Principal(Share(id_of(digest)), GIVEN_NAME, GIVEN_SCOPES)
            entries[digest] = rows.Entry(digest, principal, until_s=None)
        self._given, self._overruled, self._seen = given, overruled, seen
        self._any_made = self._any_made or any_made
        self._use(entries)

    def _use(self, entries: dict[bytes, rows.Entry]) -> None:
        self._entries = entries
        self._next_end_s = min((e.until_s for e in entries.values() if e.until_s is not None), default=math.inf)
        self.version += 1

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The database as it is at one moment."""
        self._database.execute("BEGIN")
        try:
            check_version(self._database, self._path)
            yield self._database
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the key database {self._path} is damaged: {error}; restore it") from None
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write all that is written within, or nothing; then take it in."""
        with explained(self._path):
            database = connect(self._path, busy_s=BUSY_S)
            try:
                with transaction(database):
                    check_version(database, self._path)
                    yield database
            finally:
                database.close()
        self.refresh()


def _last_write(name: str, *, missing_ok: bool = False) -> tuple[int, int, int]:
    """When a file was last written, in nanoseconds since the epoch, its length and its number: zeros without it."""
    try:
        found = os.lstat(name)
    except FileNotFoundError:
        if missing_ok:
            return 0, 0, 0
        raise
    return found.st_mtime_ns, found.st_size, found.st_ino


def _check(key: Key) -> None:
    """Refuse a new key that could be of no use."""
    if not key.scopes:
        raise KeysError(f"the key {key.name!r} would be for nothing; give it a scope")
    if not 0 < key.weight < math.inf:
        raise KeysError(f"{key.weight} is no weight; write a number above 0")
    if key.expires_s is not None and not key.created_s < key.expires_s < math.inf:
        raise KeysError(f"the key {key.name!r} would have expired already; let it end in time to come")
    if wrong := [pattern for pattern in key.models if not pattern or not pattern.isprintable()]:
        raise KeysError(f"{wrong[0]!r} is no pattern of a model's name; write one like 'qwen*'")


def _is_known(database: sqlite3.Connection, digest: bytes) -> bool:
    return database.execute("SELECT 1 FROM secrets WHERE sha256 = ?", (digest,)).fetchone() is not None
