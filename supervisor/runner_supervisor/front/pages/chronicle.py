"""What happened to engines last: how they ended, and the changes that somebody asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from runner_supervisor.core.restart import Death
from runner_supervisor.core.states import State
from runner_supervisor.engine.logs import without_paths
from runner_supervisor.engine.supervisor import Transition, describe
from runner_supervisor.front.changes import Change

MOST = 12


@dataclass(frozen=True, slots=True)
class Happening:
    """An engine that ended, or a change that somebody asked for.

    `at`: seconds since the epoch. `cause`: of the death (`core.restart.Cause`), or `reload`, `restart`. `detail`: in
    a line, without paths. `back_after_s`: after how long requests were served again; None: they are not yet, or never
    ceased to be.
    """

    at: float
    cause: str
    detail: str
    back_after_s: float | None = None


class Chronicle:
    """Keeps the last of each kind. `last_death`: the one that is known already."""

    def __init__(self, last_death: Death | None, *, clock: Callable[[], float] = time.time) -> None:
        self._last_death = last_death
        self._clock = clock
        self._change: Change | None = None
        self._deaths: deque[Happening] = deque(maxlen=MOST)
        self._changes: deque[Happening] = deque(maxlen=MOST)

    def hear(self, transition: Transition) -> None:
        """The engine's state has changed."""
        machine, now = transition.machine, self._clock()
        before, death = self._last_death, machine.last_death
        if death is not None and death != before and (before is None or death.at >= before.at):
            # An engine that follows another may show an older one than that died of.
            self._last_death = death
            self._deaths.append(Happening(now, death.cause, without_paths(describe(death))))
        if machine.state is State.READY and self._deaths and self._deaths[-1].back_after_s is None:
            latest = self._deaths.pop()
            self._deaths.append(replace(latest, back_after_s=round(now - latest.at, 1)))

    def note(self, change: Change | None) -> None:
        """How far the last change has come."""
        if change is None or change == self._change:
            return
        if self._change and self._change.number == change.number:
            self._changes.pop()
        self._change = change
        said = f"{change.progress}: {change.detail}" if change.detail else str(change.progress)
        self._changes.append(Happening(change.at, change.what, without_paths(said)))

    def last(self) -> list[Happening]:
        """The last of all, the newest first."""
        return sorted([*self._deaths, *self._changes], key=lambda each: -each.at)[:MOST]
