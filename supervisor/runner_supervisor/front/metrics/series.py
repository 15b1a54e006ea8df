"""What a series is: a name as Prometheus wants it, a kind, what it means. `docs/metrics.md` lists all there are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Labels = tuple[str, ...]


class Kind(StrEnum):
    """Prometheus' types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Durations:
    """A histogram of durations. `bounds_s`: the upper bounds of its buckets, in seconds, ascending."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one, in seconds."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s

    def buckets(self) -> list[tuple[str, float]]:
        """How many were no longer than each bound, as Prometheus wants it."""
        return list(zip([*map(str, map(float, self.bounds_s)), "+Inf"], accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class Series:
    """One metric. `name`: as it is exported, unit and `_total` included. `labels`: their names, in order."""

    name: str
    kind: Kind
    meaning: str
    labels: Labels = ()

    def of(self, samples: Mapping[Labels, float] | Iterable[tuple[Labels, float]]) -> Family:
        """A counter's or gauge's samples, to be rendered."""
        make = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(self.name, self.meaning, labels=self.labels)
        for labels, value in samples.items() if isinstance(samples, Mapping) else samples:
            family.add_metric(labels, value)
        return family

    def one(self, value: float) -> Family:
        """The only sample of a series without labels."""
        return self.of([((), value)])

    def histogram(self, samples: Iterable[tuple[Labels, Durations]]) -> Family:
        """A histogram's samples, to be rendered."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, durations in samples:
            family.add_metric(labels, durations.buckets(), durations.sum_s)
        return family


Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
