"""The front's own metrics. What is counted for every request costs a few additions; the rest is asked at a scrape."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runner_supervisor.front.metrics import engine, host, requests
from runner_supervisor.front.metrics.engine import Engines, EngineSeries
from runner_supervisor.front.metrics.host import Gpu, Gpus
from runner_supervisor.front.metrics.requests import Tally
from runner_supervisor.front.metrics.series import Durations, Kind, Series

WAIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

IN_FLIGHT = Series(
    "runner_requests_in_flight", Kind.GAUGE, "Requests that have come whole and not ended, those that wait included."
)
QUEUED = Series("runner_queue_depth", Kind.GAUGE, "Requests waiting for a slot.")
QUEUE_WAIT = Series(
    "runner_queue_wait_seconds", Kind.HISTOGRAM, "Time that requests which had to wait for a slot waited."
)
RETRIED = Series(
    "runner_requests_retried_total",
    Kind.COUNTER,
    "Times that a request was sent again because its engine ended.",
    ("path",),
)
POISON = Series(
    "runner_requests_poison_total",
    Kind.COUNTER,
    "Requests given up because two engines ended at work on them.",
    ("path",),
)
BUSY = Series("runner_engine_slots_busy", Kind.GAUGE, "Requests that the engine has been given a slot for.")
SERIES = (*requests.SERIES, IN_FLIGHT, QUEUED, QUEUE_WAIT, RETRIED, POISON, BUSY, *engine.SERIES, *host.SERIES)
"""All there are, for `docs/metrics.md` and the dashboard's test."""


class _Only(Collector):
    """One family, as prometheus_client takes what it renders."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> tuple[Metric]:
        return (self._family,)


class Metrics(Collector):
    """All series of one front, in a registry of its own. `route`: a bounded label, see `routes`."""

    def __init__(self, *, tally: Tally, engines: Engines) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self._engines = engines
        self.engine = EngineSeries(engines)
        self.queue_wait = Durations(WAIT_S)
        self.in_flight: Callable[[], int] = lambda: 0
        self.queued: Callable[[], int] = lambda: 0
        self.busy: Callable[[], int] = lambda: 0
        self.write_down: Callable[[], None] = lambda: None
        self._tally = tally
        self._retried: Counter[str] = Counter()
        self._poison: Counter[str] = Counter()
        self._gpus = Gpus()
        self._gpus_now: Sequence[Gpu] = ()

    def retried(self, route: str) -> None:
        """Count one request that is sent again because its engine ended."""
        self._retried[route] += 1

    def poison(self, route: str) -> None:
        """Count one request that is given up because two engines ended while they worked on it."""
        self._poison[route] += 1

    async def scrape(self) -> bytes:
        """All of it as Prometheus text, and llama-server's own series, as the supervisor last had them, behind it.

        Theirs all begin with `llamacpp:`, so no name comes twice. Between one series and the next, streams go on.
        """
        self._gpus_now = await asyncio.to_thread(self._gpus.read)
        text = b""
        for piece in self.pieces():
            text += piece
            await asyncio.sleep(0)
        return text + (self._engines.current.metrics or "").encode()

    def pieces(self) -> Iterator[bytes]:
        """The front's own series, one after another, as Prometheus text."""
        return (generate_latest(_Only(family)) for family in self.registry.collect())

    def describe(self) -> Iterator[Metric]:
        """What the registry asks when this is registered: nothing else is in it, so no name can clash."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's way to ask for everything."""
        self.write_down()
        yield from self._tally.collect()
        yield IN_FLIGHT.one(self.in_flight())
        yield QUEUED.one(self.queued())
        yield QUEUE_WAIT.histogram([((), self.queue_wait)])
        yield RETRIED.of(((route,), count) for route, count in self._retried.items())
        yield POISON.of(((route,), count) for route, count in self._poison.items())
        yield BUSY.one(self.busy())
        yield from self.engine.collect()
        yield from host.collect(self._gpus_now)
