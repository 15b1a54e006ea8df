"""The last quarter of an hour, a sample a second: what a page that has just been opened draws."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

KEPT_S = 15 * 60
TTFT_WINDOW_S = 60.0
MOST_TTFTS = 2_000


class Sample(NamedTuple):
    """One second. `at`: seconds since the epoch. `ttft_p50_ms`, `ttft_p95_ms`: of the streams that began within the
    last minute; None: none did. `in_flight` includes those that are `queued`.
    """

    at: float
    tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    in_flight: int
    queued: int


class History:
    """Keeps samples, at most as many as are drawn."""

    def __init__(self, *, most: int = KEPT_S) -> None:
        self._samples: deque[Sample] = deque(maxlen=most)

    def add(self, sample: Sample) -> None:
        """Keep one more, and let go of the oldest."""
        self._samples.append(sample)

    def columns(self) -> list[list[float | None]]:
        """All of them, oldest first, a list for each field: the shape in which charts take them."""
        return [list(column) for column in zip(*self._samples, strict=True)] or [[] for _ in Sample._fields]


class FirstTokens:
    """How long streams waited for their first token, as of the last minute."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_TTFTS)

    def add(self, *, at_s: float, took_s: float) -> None:
        """One more. `at_s`: on a monotonic clock."""
        self._recent.append((at_s, took_s))

    def quantiles_ms(self, *, now_s: float) -> tuple[float | None, float | None]:
        """The median and the 95th percentile, in milliseconds; None, None without any."""
        while self._recent and self._recent[0][0] < now_s - TTFT_WINDOW_S:
            self._recent.popleft()
        took = sorted(took_s for _, took_s in self._recent)
        return (quantile(took, 0.5), quantile(took, 0.95)) if took else (None, None)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of these seconds that this share of them does not exceed, in milliseconds (nearest rank)."""
    return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)
