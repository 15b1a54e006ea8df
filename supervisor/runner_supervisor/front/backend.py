"""What relays find around them: the engine's connections, the queue, the desk, and the bounds that hold for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runner_supervisor.front.live import Live
from runner_supervisor.front.metrics import Metrics
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.queue import SlotQueue
from runner_supervisor.front.replies import Refusal
from runner_supervisor.front.upstream import Upstream
from runner_supervisor.front.visit import Desk


class Backend:
    """Where relays send requests, as the front wires it.

    Attributes:
        relays: those at work.
        idle: set once none is at work any more, when the service drains.
        last: the connections to the engine that is READY, or was last; None: none was.
        hopeless: whether no engine is READY and none is on its way, so that waiting is no use.
        unavailable: why there is no READY engine.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        outbox: Outbox,
        queue: SlotQueue,
        desk: Desk,
        hopeless: Callable[[], bool],
        unavailable: Callable[[], Refusal],
    ) -> None:
        self.metrics = metrics
        self.outbox = outbox
        self.queue = queue
        self.desk = desk
        self.hopeless = hopeless
        self.unavailable = unavailable
        self.max_body_bytes = self.max_buffered_bytes = self.max_retries = 0
        self.buffered_bytes = 0
        self.draining = False
        self.relays: set[Live] = set()
        self.idle = asyncio.Event()
        self.last: Upstream | None = None

    def upstream(self) -> Upstream | None:
        """The READY engine's connections, or None."""
        last = self.last
        return None if last is None or last.lost else last

    def engine_lost(self, upstream: Upstream) -> None:
        """Nobody listens there any more; the engine's own task will learn it when the process is reaped."""
        upstream.lose()
        if upstream is self.last:
            self.queue.set_slots(0)

    def begin(self, relay: Live) -> None:
        """A relay has gone to work."""
        self.relays.add(relay)

    def end(self, relay: Live) -> None:
        """A relay is done."""
        self.relays.discard(relay)
        if self.draining and not self.relays:
            self.idle.set()
