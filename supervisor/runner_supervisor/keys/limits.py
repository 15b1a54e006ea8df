"""Limits of keys, and what keys have used: asked before each request, told after it. In memory; see `keys.usage`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from runner_supervisor.core.access import Principal
from runner_supervisor.core.quota import Use, Verdict

UNLIMITED = Verdict()
DAY_S = 86_400


class Limiter(Protocol):
    """Who says whether a key may go on, and is told what came of it."""

    def take(self, principal: Principal, then: Callable[[Verdict], None]) -> None:
        """Count one request for a key. `then` is called once, now or soon, with whether it may go ahead."""

    def release(self, principal: Principal, lease: int) -> None:
        """A request that was let go ahead has ended. `lease`: the verdict's."""

    def charge(self, principal: Principal, *, prompt_tokens: int, generated_tokens: int) -> None:
        """Count what a request has cost."""


class Standing(NamedTuple):
    """What is kept of a key's limits: see `Use`."""

    key: str
    level: float
    at_s: float
    window_s: float
    tokens: int


@dataclass(slots=True)
class Count:
    """What a key used on one day."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


Counts = dict[tuple[str, int], Count]
"""By key id and day, in days since the epoch, UTC."""


class LocalLimits:
    """Limits that this supervisor alone keeps. `now`: seconds since the epoch."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._uses: dict[str, Use] = {}
        self._restored: dict[str, Standing] = {}
        self._touched: set[str] = set()
        self._counts: Counts = defaultdict(Count)

    def take(self, principal: Principal, then: Callable[[Verdict], None]) -> None:
        """Count one request for a key, and say at once whether it may go ahead."""
        then(self.decide(principal))

    def decide(self, principal: Principal) -> Verdict:
        """Count one request for a key, unless it runs into a limit."""
        now = self._now()
        if not principal.limits:
            verdict = UNLIMITED
        else:
            verdict = self._use(principal, now).take(principal.limits, now)
            self._touched.add(principal.id)
        if verdict.exceeded is None:
            self._counts[principal.id, int(now // DAY_S)].requests += 1
        return verdict

    def release(self, principal: Principal, lease: int) -> None:  # noqa: ARG002
        """A request that was let go ahead has ended."""
        if principal.limits:
            self._use(principal, self._now()).release()

    def charge(self, principal: Principal, *, prompt_tokens: int, generated_tokens: int) -> None:
        """Count what a request has cost."""
        now = self._now()
        if principal.limits:
            self._use(principal, now).charge(principal.limits, prompt_tokens + generated_tokens, now)
            self._touched.add(principal.id)
        count = self._counts[principal.id, int(now // DAY_S)]
        count.prompt_tokens += prompt_tokens
        count.generated_tokens += generated_tokens

    def restore(self, standings: Iterable[Standing]) -> None:
        """Take over what was kept before this supervisor began."""
        self._restored = {each.key: each for each in standings}

    def changes(self) -> tuple[list[Standing], Counts]:
        """What has changed since this was asked last, to be kept."""
        uses = self._uses
        standings = [
            Standing(key, use.level, use.at_s, use.window_s, use.tokens)
            for key in self._touched
            if (use := uses.get(key)) is not None
        ]
        self._touched.clear()
        counts, self._counts = self._counts, defaultdict(Count)
        return standings, counts

    def give_back(self, standings: Iterable[Standing], counts: Counts) -> None:
        """What `changes` gave could not be kept: it is among the next ones again."""
        self._touched |= {each.key for each in standings}
        for day, count in counts.items():
            mine = self._counts[day]
            self._counts[day] = replace(
                mine,
                requests=mine.requests + count.requests,
                prompt_tokens=mine.prompt_tokens + count.prompt_tokens,
                generated_tokens=mine.generated_tokens + count.generated_tokens,
            )

    def _use(self, principal: Principal, now: float) -> Use:
        use = self._uses.get(principal.id)
        if use is None:
            before = self._restored.get(principal.id)
            use = Use(*before[1:]) if before else Use.fresh(principal.limits, now)
            self._uses[principal.id] = use
        return use
