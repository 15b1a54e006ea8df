"""A change while running, a reload or a restart, as the control socket begins and shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Progress(StrEnum):
    """How far a change has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Change:
    """One reload or restart. `at`: when it was asked for, in seconds since the epoch. `detail`: what came of it."""

    number: int
    what: str
    at: float
    progress: Progress
    detail: str


class Changes(Protocol):
    """Who carries changes out, one at a time."""

    last: Change | None

    def reload(self) -> bool:
        """Read the settings again and act on what has changed. False: another change is under way."""

    def restart(self) -> bool:
        """Put a new process in the place of the engine's. False: another change is under way."""
