"""Limits of keys, and what keys have used: asked before each request, told after it. In memory; see `keys.usage`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from runner_supervisor.core.access import Principal
from runner_supervisor.core.quota import NO_LIMITS, Limits, Use, Verdict

UNLIMITED: Final = Verdict()
DAY_S: Final = 86_400

LEAST_SWEPT: Final = 1024
"""From how many keys on it is looked which of them need not be held."""


class Limiter(Protocol):
    """Who says whether a key may go on, and is told what came of it."""

    def take(self, principal: Principal, then: Callable[[Verdict], None]) -> None:
        """Count one request for a key. `then` is called once, now or soon, with whether it may go ahead."""

    def release(self, principal: Principal, lease: int) -> None:
        """A request that was let go ahead has ended. `lease`: the verdict's."""

    def charge(self, principal: Principal, *, prompt_tokens: int, generated_tokens: int) -> None:
        """Count what a request has cost."""


class Standing(NamedTuple):
    """What is kept of a key's limits: see `Use`. `until_s`: from when on it is of no use."""

    key: str
    spent: float
    at_s: float
    window_s: float
    tokens: int
    until_s: float


@dataclass(slots=True)
class Count:
    """What a key used on one day."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


Counts = dict[tuple[str, int], Count]
"""By key id and day, in days since the epoch, UTC."""


@dataclass(slots=True)
class _Held:
    """A key's use, and the limits it was last seen under."""

    use: Use
    limits: Limits


class LocalLimits:
    """Limits that this supervisor alone keeps. `now`: seconds since the epoch.

    Keys that have nothing at work and whose quotas are whole again are forgotten.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._held: dict[str, _Held] = {}
        self._sweep_at = LEAST_SWEPT
        self._restored: dict[str, Standing] = {}
        self._touched: set[str] = set()
        self._counts: Counts = defaultdict(Count)

    def take(self, principal: Principal, then: Callable[[Verdict], None]) -> None:
        """Count one request for a key, and say at once whether it may go ahead."""
        then(self.decide(principal))

    def decide(self, principal: Principal) -> Verdict:
        """Count one request for a key, unless it runs into a limit."""
        now = self._now()
        limits = principal.limits
        if limits is NO_LIMITS or not limits:
            verdict = UNLIMITED
        else:
            verdict = self._use(principal, now).take(limits, now)
            self._touched.add(principal.share.key)
        if verdict.exceeded is None:
            self._counts[principal.share.key, int(now // DAY_S)].requests += 1
        return verdict

    def release(self, principal: Principal, lease: int) -> None:  # noqa: ARG002
        """A request that was let go ahead has ended."""
        if principal.limits:
            self._use(principal, self._now()).release()

    def charge(self, principal: Principal, *, prompt_tokens: int, generated_tokens: int) -> None:
        """Count what a request has cost."""
        now = self._now()
        if principal.limits is not NO_LIMITS and principal.limits:
            self._use(principal, now).charge(principal.limits, prompt_tokens + generated_tokens, now)
            self._touched.add(principal.id)
        count = self._counts[principal.id, int(now // DAY_S)]
        count.prompt_tokens += prompt_tokens
        count.generated_tokens += generated_tokens

    def standing(self, principal: Principal) -> Use:
        """A copy of what a key with limits has used, as of now."""
        now = self._now()
        use = self._use(principal, now)
        use.advance(principal.limits, now)
        return Use(use.spent, use.at_s, use.window_s, use.tokens, use.working)

    def follow(self, principal: Principal, use: Use, *, allowed: bool) -> None:
        """Take over what somebody else has counted and decided about a request of a key with limits.

        Args:
            use: the key's use after the request; its `working` is not looked at, as it includes other supervisors'.
            allowed: whether the request may go ahead; it is counted then.
        """
        now = self._now()
        mine = self._use(principal, now)
        mine.advance(principal.limits, now)
        mine.spent = use.spent
        if use.window_s == mine.window_s:
            mine.tokens = max(mine.tokens, use.tokens)  # ours may have been charged since
        elif use.window_s > mine.window_s:
            mine.window_s, mine.tokens = use.window_s, use.tokens
        if allowed:
            mine.working += 1
            self._counts[principal.id, int(now // DAY_S)].requests += 1
        self._touched.add(principal.id)

    def restore(self, standings: Iterable[Standing]) -> None:
        """Take over what was kept before this supervisor began."""
        self._restored = {each.key: each for each in standings}

    def changes(self) -> tuple[list[Standing], Counts]:
        """What has changed since this was asked last, to be kept."""
        standings = []
        for key in self._touched:
            held = self._held.get(key)
            if held is not None:
                use = held.use
                until_s = use.whole_s(held.limits)
                standings.append(Standing(key, use.spent, use.at_s, use.window_s, use.tokens, until_s))
        self._touched.clear()
        counts, self._counts = self._counts, defaultdict(Count)
        return standings, counts

    def give_back(self, standings: Iterable[Standing], counts: Counts) -> None:
        """What `changes` gave could not be kept: it is among the next ones again."""
        self._touched.update(each.key for each in standings)
        for day, count in counts.items():
            mine = self._counts[day]
            mine.requests += count.requests
            mine.prompt_tokens += count.prompt_tokens
            mine.generated_tokens += count.generated_tokens

    def _use(self, principal: Principal, now: float) -> Use:
        key = principal.share.key
        held = self._held.get(key)
        if held is None:
            if len(self._held) >= self._sweep_at:
                self._sweep(now)
            before = self._restored.pop(key, None)
            use = Use(before.spent, before.at_s, before.window_s, before.tokens) if before else Use(at_s=now)
            held = self._held[key] = _Held(use, principal.limits)
        else:
            held.limits = principal.limits
        return held.use

    def _sweep(self, now: float) -> None:
        """Forget what need not be known. Seldom enough that it costs each new key a constant."""
        self._held = {
            key: held for key, held in self._held.items() if held.use.working or held.use.whole_s(held.limits) > now
        }
        self._sweep_at = max(LEAST_SWEPT, 2 * len(self._held))
