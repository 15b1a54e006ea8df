"""The engine's life in numbers, asked at a scrape, and how often it died, counted when it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from runner_supervisor import __version__
from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause
from runner_supervisor.core.states import State
from runner_supervisor.front.metrics.series import Family, Kind, Series

UP = Series("runner_engine_up", Kind.GAUGE, "1 while the engine is READY, else 0.")
STATE = Series(
    "runner_engine_state", Kind.GAUGE, "1 for the state that the engine is in, 0 for the others.", ("state",)
)
RESTARTS = Series("runner_engine_restarts_total", Kind.COUNTER, "Restarts of the engine after it died.")
DEATHS = Series(
    "runner_engine_deaths_total",
    Kind.COUNTER,
    "Times the engine ended without being asked to, by cause; stall: it hung and was ended.",
    ("cause",),
)
LOWERED = Series("runner_engine_lowered", Kind.GAUGE, "Steps down that the engine has taken since memory ran out.")
LOAD = Series(
    "runner_engine_load_seconds",
    Kind.GAUGE,
    "How long the engine's last load took, from its process's start to READY.",
)
RESIDENT = Series("runner_engine_resident_memory_bytes", Kind.GAUGE, "Resident memory of the engine's process.")
NEEDED = Series("runner_engine_needed_memory_bytes", Kind.GAUGE, "Memory that the model was estimated to take.")
SLOTS = Series("runner_engine_slots", Kind.GAUGE, "Requests that the engine works on at once, at most.")
BUILD = Series(
    "runner_build_info",
    Kind.GAUGE,
    "1; what runs: this package's version, llama.cpp's commit, what it computes on.",
    ("version", "commit", "backend"),
)
SERIES = (BUILD, UP, STATE, RESTARTS, DEATHS, LOWERED, LOAD, RESIDENT, NEEDED, SLOTS)


class Binary(Protocol):
    """A llama-server."""

    @property
    def commit(self) -> str:
        """Of llama.cpp."""

    @property
    def backend(self) -> str:
        """What it computes on."""


class Spec(Protocol):
    """What an engine runs."""

    @property
    def needed_bytes(self) -> int:
        """The memory it was estimated to take."""

    @property
    def binary(self) -> Binary:
        """The llama-server."""


class Engine(Protocol):
    """An engine, as far as it is counted."""

    @property
    def machine(self) -> Machine:
        """Its life so far."""

    @property
    def slots(self) -> int:
        """How many requests it takes at once."""

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""

    @property
    def load_s(self) -> float | None:
        """How long its last load took."""

    @property
    def spec(self) -> Spec:
        """What it runs."""

    @property
    def metrics(self) -> str | None:
        """Its own, as Prometheus text."""


class Engines(Protocol):
    """Gives the engine that serves."""

    @property
    def current(self) -> Engine:
        """The one of now."""


class EngineSeries:
    """Of the engine that serves."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._deaths: Counter[Cause] = Counter()
        self._last_death = engines.current.machine.last_death
        self._restarts = self._restarts_seen = engines.current.machine.restarts

    def heard(self, machine: Machine) -> None:
        """Its state has changed."""
        before, death = self._last_death, machine.last_death
        if death is not None and death is not before and (before is None or death.at >= before.at):
            # An engine that follows another may show an older one than that died of.
            self._deaths[death.cause] += 1
            self._last_death = death
        self._restarts += max(0, machine.restarts - self._restarts_seen)
        self._restarts_seen = machine.restarts

    def collect(self) -> Iterator[Family]:
        """All of it, to be rendered."""
        engine = self._engines.current
        machine = engine.machine
        binary = engine.spec.binary
        yield BUILD.of([((__version__, binary.commit, binary.backend), 1)])
        yield UP.one(machine.state is State.READY)
        yield STATE.of(((state.value,), state is machine.state) for state in State)
        yield RESTARTS.one(self._restarts)
        yield DEATHS.of(((cause.value,), self._deaths[cause]) for cause in Cause)
        yield LOWERED.one(machine.lowered)
        yield LOAD.of(() if engine.load_s is None else [((), engine.load_s)])
        yield RESIDENT.one(engine.rss_bytes)
        yield NEEDED.one(engine.spec.needed_bytes)
        yield SLOTS.one(engine.slots)
