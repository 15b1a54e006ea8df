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

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None or self.concurrent is not None


NO_LIMITS = Limits()

CONCURRENT_RETRY_S = 1.0
"""When to try again after too many at once: nobody knows when one of them ends."""


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


@dataclass(slots=True)
class Use:
    """What one key has used. Times are seconds since the epoch.

    A clock that is set back neither gives nor takes: the bucket does not fill for that while, and what a window has
    used it keeps.

    Attributes:
        level: what the bucket of requests held at `at_s`.
        window_s: when the window of `tokens` began.
        working: requests at work now.
    """

    level: float
    at_s: float
    window_s: float = 0.0
    tokens: int = 0
    working: int = 0

    @classmethod
    def fresh(cls, limits: Limits, now: float) -> Use:
        """Nothing used yet."""
        return cls(float(limits.requests.amount) if limits.requests else 0.0, now)

    def take(self, limits: Limits, now: float) -> Verdict:
        """Count one request, unless it runs into a limit; then nothing is counted."""
        self._advance(limits, now)
        waits: dict[Limit, float] = {}
        if limits.requests and self.level < 1:
            waits[Limit.REQUESTS] = (1 - self.level) * limits.requests.period_s / limits.requests.amount
        if limits.tokens and self.tokens >= limits.tokens.amount:
            waits[Limit.TOKENS] = self.window_s + limits.tokens.period_s - now
        if limits.concurrent is not None and self.working >= limits.concurrent:
            waits[Limit.CONCURRENT] = CONCURRENT_RETRY_S
        if not waits:
            self.level -= 1
            self.working += 1
        exceeded = max(waits, key=lambda limit: waits[limit], default=None)
        return Verdict(
            exceeded,
            waits[exceeded] if exceeded else 0.0,
            self._requests_left(limits.requests),
            self._tokens_left(limits.tokens, now),
        )

    def release(self) -> None:
        """One request that was let go ahead has ended."""
        self.working -= 1

    def charge(self, limits: Limits, tokens: int, now: float) -> None:
        """Count tokens, by the window in which they are known. What is over the limit shuts out the next request."""
        self._advance(limits, now)
        self.tokens += tokens

    def _advance(self, limits: Limits, now: float) -> None:
        if limits.requests:
            filled = max(0.0, now - self.at_s) * limits.requests.amount / limits.requests.period_s
            self.level = min(float(limits.requests.amount), self.level + filled)
        self.at_s = now
        if limits.tokens:
            window_s = now - now % limits.tokens.period_s
            if window_s > self.window_s:
                self.tokens = 0
            self.window_s = window_s

    def _requests_left(self, quota: Quota | None) -> Left | None:
        if quota is None:
            return None
        missing = quota.amount - self.level
        return Left(quota.amount, max(0, int(self.level)), missing * quota.period_s / quota.amount)

    def _tokens_left(self, quota: Quota | None, now: float) -> Left | None:
        if quota is None:
            return None
        return Left(quota.amount, max(0, quota.amount - self.tokens), self.window_s + quota.period_s - now)
