"""A key and its secrets.

A key is what a client is known by: its id, limits and history stay. A secret is what the client sends; a key may
have several while one takes another's place.

A secret made here is `rsk_` and 256 random bits, so a plain SHA-256 of it is as good as any slow hash: slow hashes
make guessing weak secrets dear, and a 256-bit secret cannot be guessed at all. One that somebody else chose
(`keys import`, `api_keys`) is as strong as they made it.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from runner_supervisor.core.access import Principal, Scope
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Limits

PREFIX = "rsk_"
ID_DIGITS = 12
_SECRET_BYTES = 32


class KeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a key, without what would let anybody in. Times in seconds since the epoch; None: no end."""

    created_s: float
    expires_s: float | None


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept. Times in seconds since the epoch.

    `models`: shell patterns, none: any model. `weight` and `priority` as in `Share`. `secrets`: oldest first, those
    that have ended too.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    models: tuple[str, ...]
    limits: Limits
    weight: float
    priority: int
    created_s: float
    expires_s: float | None
    revoked_s: float | None
    secrets: tuple[Secret, ...]

    @property
    def principal(self) -> Principal:
        """Who comes with this key."""
        return Principal(
            share=Share(self.id, self.weight, self.priority),
            name=self.name,
            scopes=self.scopes,
            models=self.models,
            limits=self.limits,
        )

    def state(self, now_s: float) -> KeyState:
        """Whether it opens anything at that time."""
        if self.revoked_s is not None:
            return KeyState.REVOKED
        if self.expires_s is not None and self.expires_s <= now_s:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class Issued:
    """A key and its new secret, which is never seen again."""

    key: Key
    secret: str


def new_secret() -> str:
    """A secret that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def id_of(digest: bytes) -> str:
    """The id of the key whose first secret has this digest: given or kept, it is the same."""
    return digest.hex()[:ID_DIGITS]
