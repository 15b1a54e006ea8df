"""Looks at the service once a second, remembers a quarter of an hour of it, and lets pages follow.

Nothing here is told of a request but that it has ended; what is at work is looked at from outside. Pages are not
written to: each asks for what came since it asked last, so one that reads slowly misses seconds and holds nothing up.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection
from heapq import nsmallest
from typing import Any

import orjson

from runner_supervisor import __version__
from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import Transition
from runner_supervisor.front.changes import Changes
from runner_supervisor.front.live import Live, sight_of
from runner_supervisor.front.pages.chronicle import Chronicle
from runner_supervisor.front.pages.history import History, Sample
from runner_supervisor.front.pages.meter import Meter
from runner_supervisor.front.pages.snapshot import MOST_REQUESTS, EngineView, Greeting, Snapshot
from runner_supervisor.front.pages.tail import LogTail
from runner_supervisor.front.queue import SlotQueue
from runner_supervisor.front.replies import TOO_MANY_WATCHERS, RefusedError

BEAT_S = 1.0
MOST_WATCHERS = 32
LONGEST_NUMBER = 15
"""Digits of a line's number, as a client may say it."""


class Pulse:
    """The service, a beat a second. `live`: the requests at work; `draining`: whether the service is about to end;
    `write_down`: has all that ended told to `ended`.
    """

    def __init__(
        self,
        *,
        engines: Succession,
        queue: SlotQueue,
        tail: LogTail,
        live: Collection[Live],
        draining: Callable[[], bool],
        changes: Callable[[], Changes],
        write_down: Callable[[], None],
    ) -> None:
        self._engines = engines
        self._queue = queue
        self._tail = tail
        self._live = live
        self._draining = draining
        self._changes = changes
        self._write_down = write_down
        self._run = secrets.token_hex(4)
        self._began_s = time.monotonic()
        self._meter = Meter(live)
        self._history = History()
        self._chronicle = Chronicle(engines.current.machine.last_death)
        self._sample = Sample(time.time(), 0.0, None, None, 0, 0)
        self._encoded: bytes | None = None
        self._beaten = asyncio.Event()
        self._closed = False
        self._watchers = 0
        self.ended = self._meter.ended
        """Have it known that a request has ended."""
        engines.observers.append(self._on_transition)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.beat()

    def beat(self) -> None:
        """Look at everything once."""
        self._write_down()
        pace = self._meter.look()
        self._sample = Sample(round(time.time(), 2), *pace, in_flight=len(self._live), queued=self._queue.queued)
        self._history.add(self._sample)
        self._chronicle.note(self._changes().last)
        self._wake()

    def close(self) -> None:
        """Let all that watch end: the service does."""
        self._closed = True
        self._wake()

    def find(self, request_id: str) -> list[Live]:
        """The requests at work that have this id, which clients may choose."""
        wanted = request_id.encode()
        return [live for live in self._live if live.visit.request_id == wanted]

    def follow(self, *, may_act: bool, last_id: str, good: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Server-sent events for one page, until the service ends: a greeting, then each second the lines that were
        logged and a snapshot; a snapshot more when the engine's state changes.

        Args:
            may_act: whether it may cancel and restart, and see all lines.
            last_id: of the last event that it had (Last-Event-ID); "" for none.
            good: whether it may go on; if not, its client has to ask anew.

        Raises:
            RefusedError: as many pages watch as may.
        """
        if self._watchers >= MOST_WATCHERS:
            raise RefusedError(TOO_MANY_WATCHERS)
        run, _, line = last_id.partition("-")
        known = run == self._run and line.isdecimal() and len(line) <= LONGEST_NUMBER
        return self._events(may_act=may_act, seen=int(line) if known else 0, good=good)

    async def _events(self, *, may_act: bool, seen: int, good: Callable[[], bool]) -> AsyncIterator[bytes]:
        if self._watchers >= MOST_WATCHERS:  # others that were let in with it have begun first
            return
        self._watchers += 1
        try:
            greeting = Greeting(self._run, __version__, may_act, self._history.columns())
            yield self._event("hello", orjson.dumps(greeting), seen)
            while not self._closed and good():
                beaten = self._beaten
                lines, seen = self._tail.after(seen, guarded=may_act)
                if lines:
                    yield self._event("log", orjson.dumps(lines), seen)
                yield self._event("now", self._snapshot(), seen)
                await beaten.wait()
        finally:
            self._watchers -= 1

    def _event(self, name: str, data: bytes, seen: int) -> bytes:
        return b"event: %b\nid: %b-%d\ndata: %b\n\n" % (name.encode(), self._run.encode(), seen, data)

    def _on_transition(self, transition: Transition) -> None:
        self._chronicle.hear(transition)
        self._wake()

    def _wake(self) -> None:
        self._encoded = None
        beaten, self._beaten = self._beaten, asyncio.Event()
        beaten.set()

    def _snapshot(self) -> bytes:
        """The service now, encoded once for all who watch."""
        if self._encoded is None:
            self._encoded = orjson.dumps(self._look(), default=tuple)
        return self._encoded

    def _look(self) -> Snapshot:
        engine, now_s = self._engines.current, time.perf_counter()
        oldest = nsmallest(MOST_REQUESTS, self._live, key=lambda live: live.visit.began_s)
        waits: Callable[[Any], bool] = self._queue.waits
        return Snapshot(
            sample=self._sample,
            uptime_s=round(time.monotonic() - self._began_s, 1),
            draining=self._draining(),
            engine=EngineView(
                state=engine.state,
                age_s=round(engine.state_age_s, 1),
                pid=engine.pid,
                model=engine.spec.served_as,
                backend=engine.spec.binary.backend,
                commit=engine.spec.binary.commit,
                memory_bytes=engine.rss_bytes,
                needed_bytes=engine.spec.needed_bytes,
                lowered=engine.lowered,
                restarts=engine.machine.restarts,
                retry_in_s=engine.retry_in_s,
            ),
            slots=engine.slots if engine.state is State.READY else 0,
            slots_busy=self._queue.working,
            requests=[sight_of(live, queued=waits(live), now_s=now_s) for live in oldest],
            more=max(0, len(self._live) - MOST_REQUESTS),
            happenings=self._chronicle.last(),
        )
