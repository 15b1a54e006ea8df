"""How fast tokens come, and how long the first ones take: counted once for each request, at its end, or looked at."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import NamedTuple

from runner_supervisor.front.live import Live, tokens_of
from runner_supervisor.front.visit import Visit

LOOKED_AT = 512
"""Of the streams that end between two looks, so many are looked at for their first token."""

WINDOW_S = 60.0
MOST_FIRST_TOKENS = 2_000


class Pace(NamedTuple):
    """Since the look before this one. `ttft_p50_ms`, `ttft_p95_ms`: of the streams that began within the last
    minute; None: none did.
    """

    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None


class Meter:
    """Reads the requests at work, `live`. Times are seconds on `perf_counter`'s clock."""

    def __init__(self, live: Collection[Live]) -> None:
        self._live = live
        self._looked_s = perf_counter()
        self._spent = 0
        self._tokens = 0
        self._ended: deque[Visit] = deque(maxlen=LOOKED_AT)
        self._first_tokens = FirstTokens()

    def ended(self, visit: Visit) -> None:
        """A request is at work no more. Called for each of them, so it does no more than it must."""
        self._spent += visit.figures.generated_tokens
        if visit.streamed:
            self._ended.append(visit)

    def look(self) -> Pace:
        """What there was since the last look."""
        now_s = perf_counter()
        tokens = self._spent + sum(map(tokens_of, self._live))
        for visit in self._ended:
            self._note(visit, visit.first_s, now_s)
        for live in self._live:
            if live.streamed and live.connection:
                self._note(live.visit, live.connection.first_s, now_s)
        self._ended.clear()
        made, passed_s = max(0, tokens - self._tokens), now_s - self._looked_s
        self._tokens, self._looked_s = tokens, now_s
        return Pace(round(made / passed_s, 1) if passed_s > 0 else 0.0, *self._first_tokens.quantiles_ms(now_s=now_s))

    def _note(self, visit: Visit, first_s: float, now_s: float) -> None:
        if first_s > self._looked_s:
            self._first_tokens.add(at_s=now_s, took_s=first_s - visit.began_s)


class FirstTokens:
    """How long streams waited for their first token, as of the last minute."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_FIRST_TOKENS)

    def add(self, *, at_s: float, took_s: float) -> None:
        """One more. `at_s`: on a monotonic clock."""
        self._recent.append((at_s, took_s))

    def quantiles_ms(self, *, now_s: float) -> tuple[float | None, float | None]:
        """The median and the 95th percentile, in milliseconds; None, None without any."""
        while self._recent and self._recent[0][0] < now_s - WINDOW_S:
            self._recent.popleft()
        took = sorted(took_s for _, took_s in self._recent)
        return (quantile_ms(took, 0.5), quantile_ms(took, 0.95)) if took else (None, None)


def quantile_ms(ordered_s: Sequence[float], share: float, *, digits: int = 1) -> float:
    """The least of these seconds that this share of them does not exceed, in milliseconds (nearest rank)."""
    return round(1000 * ordered_s[max(0, math.ceil(share * len(ordered_s)) - 1)], digits)
