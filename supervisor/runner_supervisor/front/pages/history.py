"""The last quarter of an hour, a sample a second: what a page that has just been opened draws."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

KEPT_S = 15 * 60


class Sample(NamedTuple):
    """One second. `at`: seconds since the epoch; then what `Meter` says. `in_flight` includes those that are
    `queued`.
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
