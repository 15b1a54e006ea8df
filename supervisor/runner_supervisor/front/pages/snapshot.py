"""What the page is told each second: the service as one small value. No content, no paths, no client addresses."""

from __future__ import annotations

from dataclasses import dataclass

from runner_supervisor.core.states import State
from runner_supervisor.front.live import Sight
from runner_supervisor.front.pages.chronicle import Happening
from runner_supervisor.front.pages.history import Sample

MOST_REQUESTS = 50


@dataclass(frozen=True, slots=True)
class EngineView:
    """The engine that serves. Times are seconds. `needed_bytes`: as estimated. `lowered`: what it runs with less of
    since memory ran out.
    """

    state: State
    age_s: float
    pid: int | None
    model: str
    backend: str
    commit: str
    memory_bytes: int
    needed_bytes: int
    lowered: list[str]
    restarts: int
    retry_in_s: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One second. `slots_busy` of `slots` work; `more`: requests at work beside those in `requests`."""

    sample: Sample
    uptime_s: float
    draining: bool
    engine: EngineView
    slots: int
    slots_busy: int
    requests: list[Sight]
    more: int
    happenings: list[Happening]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a page is told first. `run`: changes when the supervisor is another. `may_act`: whether it may cancel and
    restart. `history`: a list for each field of `Sample`.
    """

    run: str
    version: str
    may_act: bool
    history: list[list[float | None]]
