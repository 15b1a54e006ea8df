"""How much a key may use: so much in so long, and how many requests at once. Pure: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


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


NO_LIMITS: Final = Limits()

CONCURRENT_RETRY_S: Final = 1.0
"""When to try again after too many at once: nobody knows when one of them ends."""

TICK_S: Final = 1e-6
"""Added to every wait: today's seconds since the epoch are exact to a quarter of it in a float, so that who waits
that long is not refused for a rounding error."""


class Limit(StrEnum):
    """Which limit a request ran into."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


class Left(NamedTuple):
    """What is left of a quota. `reset_s`: in how many seconds it is whole again.

    Tuples here, as they are made for every request and cost a third of a frozen dataclass.
    """

    limit: int
    remaining: int
    reset_s: float


class Verdict(NamedTuple):
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

    What has been spent is kept, not what is left: a limit that a key gets later begins whole, and one that changes
    keeps what was spent under it.

    A clock that is set back neither gives nor takes: the bucket does not fill for that step, and a window goes on
    until the clock has come through it. Only a step of more than a whole period moves the window to the present one,
    with what was used in it, so that nobody is shut out for long by a clock that was once wrong.

    Attributes:
        spent: what was missing from the bucket of requests at `at_s`.
        window_s: when the window of `tokens` began.
        working: requests at work now.
    """

    spent: float = 0.0
    at_s: float = 0.0
    window_s: float = 0.0
    tokens: int = 0
    working: int = 0

    def take(self, limits: Limits, now: float) -> Verdict:
        """Count one request, unless it runs into a limit; then nothing is counted."""
        self.advance(limits, now)
        exceeded, wait_s = self._obstacle(limits, now)
        if exceeded is None:
            self.working += 1
            if limits.requests is not None:
                self.spent += 1
        return self.verdict(limits, now, exceeded, wait_s)

    def release(self) -> None:
        """One request that was let go ahead has ended."""
        self.working -= 1

    def charge(self, limits: Limits, tokens: int, now: float) -> None:
        """Count tokens, by the window in which they are known. What is over the limit shuts out the next request."""
        self.advance(limits, now)
        if limits.tokens is not None:
            self.tokens += tokens

    def advance(self, limits: Limits, now: float) -> None:
        """Fill the bucket for the time that has passed, and begin a window where one has ended."""
        quota = limits.requests
        if quota is not None:
            spent = self.spent
            if now > self.at_s:
                spent -= (now - self.at_s) * quota.amount / quota.period_s
            self.spent = 0.0 if spent < 0.0 else spent if spent < quota.amount else float(quota.amount)
        self.at_s = now
        quota = limits.tokens
        if quota is not None:
            window_s = now - now % quota.period_s
            if window_s > self.window_s:
                self.tokens = 0
            elif self.window_s - quota.period_s <= now < self.window_s:
                return
            self.window_s = window_s

    def verdict(self, limits: Limits, now: float, exceeded: Limit | None, wait_s: float) -> Verdict:
        """What to say of a request. The state must be that of `now`.

        Args:
            exceeded: the limit that it ran into; None: it may go ahead.
            wait_s: when to try again.
        """
        requests = tokens = None
        if (quota := limits.requests) is not None:
            amount, spent = quota.amount, self.spent
            remaining = int(amount - spent) if spent < amount else 0
            requests = Left(amount, remaining, spent * quota.period_s / amount)
        if (quota := limits.tokens) is not None:
            amount, used = quota.amount, self.tokens
            tokens = Left(amount, amount - used if used < amount else 0, self.window_s + quota.period_s - now)
        return Verdict(exceeded, wait_s, requests, tokens)

    def whole_s(self, limits: Limits) -> float:
        """When the quotas are whole again if nothing else happens: what is kept of them is of no use from then on."""
        whole_s = 0.0
        if limits.requests is not None:
            whole_s = self.at_s + self.spent * limits.requests.period_s / limits.requests.amount
        if limits.tokens is not None and self.tokens:
            whole_s = max(whole_s, self.window_s + limits.tokens.period_s)
        return whole_s

    def _obstacle(self, limits: Limits, now: float) -> tuple[Limit | None, float]:
        """The limit that a request would run into, and for how long; of several the longest."""
        exceeded, wait_s = None, 0.0
        quota = limits.requests
        if quota is not None and (lacking := self.spent + 1 - quota.amount) > 0:
            exceeded, wait_s = Limit.REQUESTS, lacking * quota.period_s / quota.amount + TICK_S
        quota = limits.tokens
        if quota is not None and self.tokens >= quota.amount:
            until_s = self.window_s + quota.period_s - now + TICK_S
            if until_s > wait_s:
                exceeded, wait_s = Limit.TOKENS, until_s
        if limits.concurrent is not None and self.working >= limits.concurrent and wait_s < CONCURRENT_RETRY_S:
            exceeded, wait_s = Limit.CONCURRENT, CONCURRENT_RETRY_S
        return exceeded, wait_s
