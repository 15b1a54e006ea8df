"""Tells the service manager how it goes, from the event loop: a loop that hangs says nothing, and is ended for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.states import COMING_UP, State
from runner_supervisor.service.manager import Manager

BEAT_S = 1.0
EXTENSION_S = 30.0
"""How much longer each beat lets a start, a reload or a stop take. Those have limits of their own, and a loop that
hangs asks for no more."""

GIB = 2**30


class Phase(StrEnum):
    """Where the service is, as its manager knows it."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class News:
    """How it goes: the phase, and a line for people."""

    phase: Phase
    status: str


def assignments(before: News | None, now: News, *, clock_us: int) -> list[str]:
    """What to tell, as sd_notify(3) has it.

    Args:
        before: what was told last, or None.
        now: how it goes.
        clock_us: CLOCK_MONOTONIC, in microseconds: a reload begins with it.
    """
    told = ["WATCHDOG=1"]
    if now.phase is not Phase.STARTING and (before is None or before.phase is not now.phase):
        told.append(f"{now.phase.upper()}=1")
        if now.phase is Phase.RELOADING:
            told.append(f"MONOTONIC_USEC={clock_us}")
    if before is None or before.status != now.status:
        told.append(f"STATUS={now.status}")
    if now.phase is not Phase.READY:
        told.append(extension(EXTENSION_S))
    return told


def extension(seconds: float) -> str:
    """The assignment that lets what is under way take so many seconds more, from now."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def engine_status(machine: Machine, *, model: str, held_bytes: int, needed_bytes: int) -> str:
    """What an engine is at, in one line.

    llama-server tells nobody but a router how much of a model it has loaded (tools/server/server-context.cpp,
    `load_progress_callback`); what can be seen is the memory that it has by now.

    Args:
        machine: the engine's.
        model: what it serves.
        held_bytes: the memory that it has.
        needed_bytes: the memory that it is estimated to need.
    """
    death = machine.last_death
    again = f"restarting: {death.cause}; " if death and machine.generation > 1 else ""
    match machine.state:
        case State.READY:
            return f"ready: {model}"
        case State.BACKOFF if death:
            return f"restarting: {death.cause} ({death.detail})"
        case State.FAILED if death:
            return f"failed: {death.cause} ({death.detail}); requests get 503"
        case state if state in COMING_UP:
            return f"{again}loading {model}: {held_bytes / GIB:.1f} of about {needed_bytes / GIB:.1f} GiB"
    return f"{machine.state}: {model}"


class Herald:
    """Sends what has changed at once, and a sign of life at every beat."""

    def __init__(self, manager: Manager, look: Callable[[], News]) -> None:
        self._manager = manager
        self._look = look
        self._told: News | None = None
        self._changed = asyncio.Event()
        self._beat_s = min(BEAT_S, (manager.watchdog_s or BEAT_S * 3) / 3) if manager.address else None

    def look(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            self._changed.clear()
            now = self._look()
            if self._manager.tell(*assignments(self._told, now, clock_us=time.monotonic_ns() // 1000)):
                self._told = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._beat_s)
