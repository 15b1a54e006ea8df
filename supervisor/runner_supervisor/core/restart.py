"""How long to wait before the next start, when to give up, and why a child died."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an engine's process ended without being asked to."""

    SIGNAL = "signal"
    EXIT = "exit"
    CONFIG = "config"
    LOAD_TIMEOUT = "load_timeout"
    SPAWN = "spawn"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by `code`, or by `signal` (its number) when that is not None."""

    code: int = 0
    signal: int | None = None

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal is not None else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Death:
    """One unexpected end of an engine's process, as status and metrics show it."""

    cause: Cause
    detail: str
    at: float
    was_ready: bool


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The numbers behind restarts. Times are seconds.

    The wait before restart n (from 0) is drawn evenly from 0 to min(`backoff_cap_s`, `backoff_base_s` * 2**n):
    "full jitter". n falls back to 0 once a child has been READY for `stable_s`. `breaker_deaths` within
    `breaker_window_s`, before or after READY, open the breaker for `cooldown_s`; then one start is tried, and
    a single death opens it again.
    """

    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    stable_s: float = 60.0
    breaker_deaths: int = 8
    breaker_window_s: float = 120.0
    cooldown_s: float = 300.0


def backoff_s(*, attempt: int, jitter: float, policy: RestartPolicy) -> float:
    """Seconds to wait before restart number `attempt` (from 0), with `jitter` drawn from [0, 1)."""
    doublings = min(attempt, 64)
    return jitter * min(policy.backoff_cap_s, policy.backoff_base_s * 2.0**doublings)


def recent(deaths: tuple[Death, ...], *, now: float, policy: RestartPolicy) -> tuple[Death, ...]:
    """The deaths that still count towards the breaker, at most as many as can open it."""
    inside = tuple(death for death in deaths if now - death.at < policy.breaker_window_s)
    return inside[-policy.breaker_deaths :]


def cause_of(exit_: Exit, *, was_ready: bool, ever_ready: bool) -> Cause:
    """Name why a process ended.

    llama-server exits with 1 for a missing or corrupt model, a bad argument and a busy address alike
    (tools/server/server.cpp, `return 1` before its loop), and with 0 when a flag only made it print something.
    Before the first READY that is a fault no restart mends; later the same settings have already worked once,
    so it is treated as a passing one.
    """
    if exit_.signal is not None:
        return Cause.SIGNAL
    if exit_.code in {0, 1} and not was_ready and not ever_ready:
        return Cause.CONFIG
    return Cause.EXIT
