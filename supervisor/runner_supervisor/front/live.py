"""What can be seen of a request at work, and done to it, from outside the data path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from runner_supervisor.front.connection import Connection
from runner_supervisor.front.figures import EVENT_BYTES
from runner_supervisor.front.visit import Visit


class Phase(StrEnum):
    """How far a request has come. PREFILL: the engine has it and has sent nothing back so far."""

    QUEUED = "queued"
    PREFILL = "prefill"
    STREAMING = "streaming"


class Live(Protocol):
    """A request at work: a `Relay`."""

    @property
    def visit(self) -> Visit:
        """Its account."""

    @property
    def connection(self) -> Connection | None:
        """The engine's connection while it is at work there."""

    @property
    def route(self) -> str:
        """Its route's label."""

    @property
    def streamed(self) -> bool:
        """Whether its answer, as far as it came, is a stream of events."""

    def cancel(self) -> None:
        """End it, and let its client know."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One request at work. `key`: the name of its key. `tokens`: generated so far, by the events that passed;
    `tokens_per_s`: since the first of them.
    """

    id: str
    key: str
    route: str
    phase: Phase
    elapsed_s: float
    tokens: int
    tokens_per_s: float | None


def tokens_of(live: Live) -> int:
    """How many tokens have passed: an event each, or, where reads brought several, by their length."""
    connection = live.connection
    return max(connection.pieces, connection.size // EVENT_BYTES) if connection and live.streamed else 0


def sight_of(live: Live, *, queued: bool, now_s: float) -> Sight:
    """What a page shows of it. `now_s`: on `perf_counter`'s clock."""
    visit, connection = live.visit, live.connection
    tokens = tokens_of(live)
    first_s = connection.first_s if connection else 0.0
    streaming_s = now_s - first_s if first_s and tokens else 0.0
    phase = Phase.QUEUED if queued else Phase.STREAMING if first_s else Phase.PREFILL
    return Sight(
        id=visit.request_id.decode("ascii", "replace"),
        key=visit.key_name,
        route=live.route,
        phase=phase,
        elapsed_s=round(now_s - visit.began_s, 1),
        tokens=tokens,
        tokens_per_s=round(tokens / streaming_s, 1) if streaming_s > 0 else None,
    )
