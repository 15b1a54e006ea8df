"""What relays need of the service around them. `Front` is one."""

from __future__ import annotations

from typing import Protocol

from runner_supervisor.front.live import Live
from runner_supervisor.front.metrics import Metrics
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.queue import SlotQueue
from runner_supervisor.front.replies import Refusal
from runner_supervisor.front.upstream import Upstream
from runner_supervisor.front.visit import Desk


class Backend(Protocol):
    """Where relays send requests, as the app wires it."""

    metrics: Metrics
    queue: SlotQueue
    max_body_bytes: int
    max_buffered_bytes: int
    max_retries: int
    buffered_bytes: int
    draining: bool
    outbox: Outbox
    desk: Desk

    def upstream(self) -> Upstream | None:
        """The READY engine's connections, or None."""

    def unavailable(self) -> Refusal:
        """Why there is no READY engine."""

    def hopeless(self) -> bool:
        """Whether no engine is READY and none is on its way, so that waiting is no use."""

    def engine_lost(self, upstream: Upstream) -> None:
        """Nobody listens there any more, whatever the engine's state says so far."""

    def begin(self, relay: Live) -> None:
        """A relay has gone to work."""

    def end(self, relay: Live) -> None:
        """A relay is done."""
