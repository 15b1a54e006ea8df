"""The states of an engine and which may follow which. docs/states.md is drawn from this table."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where one engine is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


MEANING: dict[State, str] = {
    State.STOPPED: "no process, and none is wanted",
    State.STARTING: "the process runs; its HTTP server does not answer yet",
    State.LOADING: "HTTP answers 503 while the model loads",
    State.READY: "/health answered 200: requests are served",
    State.STOPPING: "TERM was sent, as asked or because it hangs; KILL follows after the grace period",
    State.BACKOFF: "the process died; the next start waits for its delay",
    State.FAILED: "given up: the cause is permanent, or the crash-loop breaker is open",
}

TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.LOADING, State.READY, State.STOPPING, State.BACKOFF, State.FAILED}),
    State.LOADING: frozenset({State.READY, State.STOPPING, State.BACKOFF, State.FAILED}),
    State.READY: frozenset({State.STOPPING, State.BACKOFF, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.STARTING, State.BACKOFF, State.FAILED}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPED}),
    State.FAILED: frozenset({State.STARTING, State.STOPPED}),
}

ALIVE = frozenset({State.STARTING, State.LOADING, State.READY, State.STOPPING})
"""States in which a child process exists."""

COMING_UP = frozenset({State.STARTING, State.LOADING})
"""States in which a child exists that has not been READY yet."""
