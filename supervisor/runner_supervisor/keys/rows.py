"""Keys as rows of the database, and back."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runner_supervisor.core.access import Principal, Scope
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.keys.key import Key, Secret

KINDS = 256

_KEYS = """
    SELECT id, name, scopes, models, requests, requests_period_s, tokens, tokens_period_s, concurrent,
           weight, priority, created_s, expires_s, revoked_s
    FROM keys
"""
_ADD_KEY = """
    INSERT INTO keys (id, name, scopes, models, requests, requests_period_s, tokens, tokens_period_s, concurrent,
                      weight, priority, created_s, expires_s, revoked_s)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A secret that opens something until `until_s`, in seconds since the epoch; None: without end."""

    digest: bytes
    principal: Principal
    until_s: float | None


def read_keys(database: sqlite3.Connection) -> list[Key]:
    """All keys, oldest first."""
    secrets = defaultdict(list)
    for key_id, created_s, expires_s in database.execute(
        "SELECT key_id, created_s, expires_s FROM secrets ORDER BY created_s, expires_s IS NULL"
    ):
        secrets[key_id].append(Secret(created_s, expires_s))
    rows = database.execute(f"{_KEYS} ORDER BY created_s, rowid")
    return [_key(row, tuple(secrets[row[0]])) for row in rows]


def read_entries(database: sqlite3.Connection, *, now_s: float) -> dict[bytes, Entry]:
    """The secrets that open something at that time, by their digests."""
    live = {key.id: key for row in database.execute(f"{_KEYS} WHERE revoked_s IS NULL") if (key := _key(row, ()))}
    principals = {key.id: key.principal for key in live.values()}
    entries = {}
    for digest, key_id, secret_ends_s in database.execute("SELECT sha256, key_id, expires_s FROM secrets"):
        if key_id in live:
            ends = [end_s for end_s in (live[key_id].expires_s, secret_ends_s) if end_s is not None]
            if not ends or min(ends) > now_s:
                entries[digest] = Entry(digest, principals[key_id], min(ends, default=None))
    return entries


def add_key(database: sqlite3.Connection, key: Key) -> None:
    """Write a key; its secrets are written by `add_secret`."""
    limits = key.limits
    row = (
        key.id,
        key.name,
        json.dumps(sorted(key.scopes)),
        json.dumps(key.models),
        *_columns(limits.requests),
        *_columns(limits.tokens),
        limits.concurrent,
        key.weight,
        key.priority,
        key.created_s,
        key.expires_s,
        key.revoked_s,
    )
    database.execute(_ADD_KEY, row)


def add_secret(database: sqlite3.Connection, *, digest: bytes, key_id: str, created_s: float) -> None:
    """Write a further secret of a key."""
    values = (digest, key_id, created_s)
    database.execute("INSERT INTO secrets (sha256, key_id, created_s) VALUES (?, ?, ?)", values)


def _columns(quota: Quota | None) -> tuple[int | None, float | None]:
    return (quota.amount, quota.period_s) if quota else (None, None)


def _key(row: tuple[Any, ...], secrets: tuple[Secret, ...]) -> Key:
    key_id, name, scopes, models, requests, requests_s, tokens, tokens_s, concurrent, *rest = row
    weight, priority, created_s, expires_s, revoked_s = rest
    return Key(
        id=key_id,
        name=name,
        scopes=_scopes(scopes),
        models=tuple(json.loads(models)),
        limits=_limits(requests, requests_s, tokens, tokens_s, concurrent),
        weight=weight,
        priority=priority,
        created_s=created_s,
        expires_s=expires_s,
        revoked_s=revoked_s,
        secrets=secrets,
    )


# Keys are many and their kinds few: those that are equal are one, which the processor's cache has at hand.


@lru_cache(maxsize=KINDS)
def _scopes(names: str) -> frozenset[Scope]:
    return frozenset(Scope(scope) for scope in json.loads(names))


@lru_cache(maxsize=KINDS)
def _limits(
    requests: int | None, requests_s: float, tokens: int | None, tokens_s: float, concurrent: int | None
) -> Limits:
    return Limits(
        requests=Quota(requests, requests_s) if requests else None,
        tokens=Quota(tokens, tokens_s) if tokens else None,
        concurrent=concurrent,
    )
