"""The front's own metrics: names, units, labels. What is counted for every request costs an addition."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause
from runner_supervisor.core.states import State

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, float("inf"))
"""Upper bounds of the histograms' buckets."""

BOUNDS = [*(str(float(bound)) for bound in SECONDS[:-1]), "+Inf"]


class Durations:
    """A histogram of durations."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * len(SECONDS)
        self._sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one, in seconds."""
        self._counts[bisect_left(SECONDS, duration_s)] += 1
        self._sum_s += duration_s

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Add it to what is rendered."""
        family.add_metric(labels, list(zip(BOUNDS, accumulate(self._counts), strict=True)), self._sum_s)


def by_path(name: str, meaning: str, counts: Counter[str]) -> CounterMetricFamily:
    """What was counted for each route, to be rendered."""
    family = CounterMetricFamily(f"runner_requests_{name}", meaning, labels=["path"])
    for route, count in counts.items():
        family.add_metric([route], count)
    return family


class Metrics(Collector):
    """Counts requests and the engine's life in a registry of its own. `route`: a bounded label, see `routes`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.queue_wait = Durations()
        self.in_flight: Callable[[], int] = lambda: 0
        self.queued: Callable[[], int] = lambda: 0
        self._answered: Counter[tuple[str, int]] = Counter()
        self._abandoned: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._poison: Counter[str] = Counter()
        self._limited: Counter[str] = Counter()
        self._first_byte: dict[str, Durations] = {}
        self._deaths: Counter[Cause] = Counter()
        self._machine = Machine()

    def answered(self, route: str, status: int) -> None:
        """Count one complete answer."""
        self._answered[route, status] += 1

    def abandoned(self, route: str) -> None:
        """Count one request whose client left."""
        self._abandoned[route] += 1

    def broken(self, route: str) -> None:
        """Count one answer that the engine began and did not end."""
        self._broken[route] += 1

    def retried(self, route: str) -> None:
        """Count one request that is sent again because its engine ended."""
        self._retried[route] += 1

    def poison(self, route: str) -> None:
        """Count one request that is given up because two engines ended while they worked on it."""
        self._poison[route] += 1

    def limited(self, code: str) -> None:
        """Count one request refused because its key has reached a limit. `code`: which, bounded."""
        self._limited[code] += 1

    def first_byte(self, route: str, elapsed_s: float) -> None:
        """Count how long a request's first byte took, in seconds."""
        durations = self._first_byte.get(route)
        if durations is None:
            durations = self._first_byte[route] = Durations()
        durations.observe(elapsed_s)

    def engine(self, machine: Machine) -> None:
        """Take over what the engine's state machine knows."""
        death = machine.last_death
        if death is not None and death is not self._machine.last_death:
            self._deaths[death.cause] += 1
        self._machine = machine

    def render(self) -> bytes:
        """All of it as Prometheus text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's way to ask for everything."""
        yield from self._requests()
        yield from self._engine()

    def _requests(self) -> Iterable[Metric]:
        answered = CounterMetricFamily("runner_requests", "Requests answered.", labels=["path", "status"])
        for (route, status), count in self._answered.items():
            answered.add_metric([route, str(status)], count)
        mishaps = [
            by_path("abandoned", "Requests whose client left before the answer was complete.", self._abandoned),
            by_path("broken", "Answers that the engine began and did not end.", self._broken),
            by_path("retried", "Times that a request was sent again because its engine ended.", self._retried),
            by_path("poison", "Requests given up because two engines ended at work on them.", self._poison),
        ]
        limited = CounterMetricFamily(
            "runner_requests_limited", "Requests refused because their key has reached a limit.", labels=["limit"]
        )
        for code, count in self._limited.items():
            limited.add_metric([code], count)
        first_byte = HistogramMetricFamily(
            "runner_time_to_first_byte_seconds",
            "Time from the end of a request's head to the first byte of its answer.",
            labels=["path"],
        )
        for route, durations in self._first_byte.items():
            durations.add_to(first_byte, [route])
        queue_wait = HistogramMetricFamily(
            "runner_queue_wait_seconds", "Time that requests which had to wait for a slot waited."
        )
        self.queue_wait.add_to(queue_wait, [])
        in_flight = GaugeMetricFamily(
            "runner_requests_in_flight", "Requests being relayed to the engine.", self.in_flight()
        )
        queued = GaugeMetricFamily("runner_queue_depth", "Requests waiting for a slot.", self.queued())
        return answered, *mishaps, limited, first_byte, in_flight, queued, queue_wait

    def _engine(self) -> Iterable[Metric]:
        machine = self._machine
        state = GaugeMetricFamily(
            "runner_engine_state", "1 for the state that the engine is in, 0 for the others.", labels=["state"]
        )
        for each in State:
            state.add_metric([each.value], float(each is machine.state))
        up = GaugeMetricFamily(
            "runner_engine_up", "1 while the engine is READY, else 0.", float(machine.state is State.READY)
        )
        restarts = CounterMetricFamily(
            "runner_engine_restarts", "Restarts of the engine after it died.", machine.restarts
        )
        deaths = CounterMetricFamily(
            "runner_engine_deaths", "Times the engine ended without being asked to.", labels=["cause"]
        )
        for cause in Cause:
            deaths.add_metric([cause.value], self._deaths[cause])
        lowered = GaugeMetricFamily(
            "runner_engine_lowered", "Steps down that the engine has taken since memory ran out.", machine.lowered
        )
        return up, state, restarts, deaths, lowered
