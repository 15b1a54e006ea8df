"""How much a key may use: so much in so long, and how many requests at once. Pure: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Quota:
    """`amount` in each `period_s` seconds."""

    amount: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; None: as much as it likes.

    `requests`: a token bucket that holds `amount` and fills in `period_s`. `tokens`: prompt and generated ones, in
    windows of `period_s` that begin at multiples of it since the epoch. `concurrent`: requests at once, those that
    wait for a slot included.
    """

    requests: Quota | None = None
    tokens: Quota | None = None
    concurrent: int | None = None


NO_LIMITS = Limits()


class Limit(StrEnum):
    """Which limit a request ran into."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a quota. `reset_s`: in how many seconds it is whole again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go ahead under its key's limits, and what is left of them after it.

    `exceeded`: the limit that it ran into; None: it may go ahead. `retry_after_s`: when to try again, in seconds.
    `lease`: what `Limiter.release` gives back; 0 where nothing is to be given back.
    """

    exceeded: Limit | None = None
    retry_after_s: float = 0.0
    requests: Left | None = None
    tokens: Left | None = None
    lease: int = 0
