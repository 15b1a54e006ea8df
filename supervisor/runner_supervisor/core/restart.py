"""How long to wait before the next start, when to give up, and why a child died."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

SIGKILL = 9


class Cause(StrEnum):
    """Why an engine's process ended without being asked to."""

    CRASH = "crash"
    EXIT = "exit"
    OOM = "oom"
    STALL = "stall"
    LOAD_TIMEOUT = "load_timeout"
    CONFIG = "config"
    SPAWN = "spawn"


MEANING: dict[Cause, str] = {
    Cause.CRASH: "a signal ended it",
    Cause.EXIT: "it ended by itself",
    Cause.OOM: "memory ran out, the machine's, the container's or the GPU's",
    Cause.STALL: "it made no progress for too long, and was ended",
    Cause.LOAD_TIMEOUT: "its load made no progress for too long, and was ended",
    Cause.CONFIG: "it cannot do what it is told",
    Cause.SPAWN: "the process could not be made",
}

OUT_OF_MEMORY = re.compile(
    r"cudaMalloc failed|out of memory|(?:failed|unable) to allocate|bad_alloc|[Cc]annot allocate memory"
    r"|ErrorOutOf(?:Device|Host)Memory",
)
"""What llama-server says when memory runs out (ggml/src/ggml-cuda/ggml-cuda.cu, src/llama-model.cpp,
src/llama-kv-cache.cpp, src/llama-context.cpp, ggml/src/ggml-vulkan)."""

REFUSED = re.compile(
    r"error: (?:invalid|unknown|argument|--)|expected value for argument|failed to open GGUF file|invalid magic"
    r"|model is corrupted|corrupted model|file bounds|error loading model|unknown model architecture"
    r"|couldn't bind HTTP server socket|failed to initialize HTTP server",
)
"""What llama-server says when it cannot do what it is told (common/arg.cpp, ggml/src/gguf.cpp,
src/llama-model-loader.cpp, src/llama.cpp, tools/server/server-http.cpp)."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by `code`, or by `signal` (its number) when that is not None."""

    code: int = 0
    signal: int | None = None

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal is not None else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Death:
    """One unexpected end of an engine's process, as status and metrics show it. `words`: its own last lines."""

    cause: Cause
    detail: str
    at: float
    was_ready: bool
    words: tuple[str, ...] = ()


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


def cause_of(exit_: Exit, *, words: Iterable[str], oom_killed: bool, came_up: bool) -> Cause:
    """Name why a process ended that nobody asked to end.

    llama-server exits with 1 for a missing or corrupt model, a bad argument and a busy address alike
    (tools/server/server.cpp, `return 1` before its loop), and with 0 when a flag only made it print something:
    the last lines of its log tell them apart.

    Args:
        exit_: how it ended.
        words: the last lines of its log.
        oom_killed: whether the kernel has killed for memory meanwhile.
        came_up: whether this process, or one before it with the same settings, has ever been READY.
    """
    said = "\n".join(line for line in words if line.split(maxsplit=2)[1:2] != ["W"])  # warnings are survived
    if (exit_.signal == SIGKILL and oom_killed) or OUT_OF_MEMORY.search(said):
        return Cause.OOM
    if exit_.signal is not None:
        return Cause.CRASH
    if exit_.code in {0, 1} and (REFUSED.search(said) or not came_up):
        return Cause.CONFIG
    return Cause.EXIT
