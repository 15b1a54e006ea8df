"""The queue before the engine's slots: `core.admission` with a clock, deadlines and a pace to tell clients."""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

from runner_supervisor.core.admission import Admission, Share
from runner_supervisor.front.metrics import Metrics

PACE_WEIGHT: Final = 0.2
LONGEST_RETRY_S: Final = 600


class Waiter(Protocol):
    """A request that may have to wait. Used once."""

    def on_admitted(self) -> None:
        """A slot is its own, after a wait."""

    def on_expired(self) -> None:
        """It has waited as long as it may."""


_Turn = tuple[float, float]
"""When a request first asked for a slot, and when it began to wait or to work. Seconds on the loop's clock."""


class SlotQueue:
    """Shares the engine's slots. `enter`, then `leave` when done or gone; a wait ends in one of two calls."""

    def __init__(self, *, metrics: Metrics) -> None:
        self._admission: Admission[Waiter] = Admission(slots=0, queue_size=0)
        self._timeout_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._waiting: dict[Waiter, tuple[str, _Turn, asyncio.TimerHandle]] = {}
        self._working: dict[Waiter, _Turn] = {}
        self._forgotten: dict[Waiter, _Turn] = {}
        self._pace_s = 1.0
        self._pumping = False
        metrics.queued = lambda: self._admission.queued
        metrics.busy = lambda: len(self._working)

    @property
    def queued(self) -> int:
        """How many wait."""
        return self._admission.queued

    @property
    def working(self) -> int:
        """How many have a slot."""
        return len(self._working)

    def waits(self, waiter: Waiter) -> bool:
        """Whether this one waits."""
        return waiter in self._waiting

    @property
    def retry_after_s(self) -> int:
        """In how many seconds those that wait now may have been served, at the pace observed."""
        ahead = (self._admission.queued + 1) / max(1, self._admission.slots)
        return max(1, min(LONGEST_RETRY_S, math.ceil(ahead * self._pace_s)))

    def set_limits(self, *, queue_size: int, timeout_s: float) -> None:
        """How many may wait, and for how many seconds those that come from now on."""
        self._admission.queue_size = queue_size
        self._timeout_s = timeout_s

    def set_slots(self, slots: int) -> None:
        """The engine has this many slots now; 0 while there is none."""
        self._admission.slots = slots
        self._pump()

    def enter(self, waiter: Waiter, share: Share) -> int | None:
        """Ask for a slot: 0 is a slot at once, n > 0 the n-th place in the queue, None a full queue."""
        place = self._admission.enter(waiter, share)
        if place is not None:
            now = self._loop.time()
            if place:
                self._wait(waiter, share, (now, now))
            else:
                self._working[waiter] = (now, now)
        return place

    def put_back(self, waiter: Waiter, share: Share) -> None:
        """The engine went away before it answered: wait again, before all others of the key, while time is left."""
        turn = self._working.pop(waiter, None)
        if turn is not None:
            self._admission.release()
        else:
            turn = self._forgotten.pop(waiter)
        now = self._loop.time()
        entered, _ = turn
        if now - entered >= self._timeout_s:
            waiter.on_expired()
        else:
            self._admission.put_back(waiter, share)
            self._wait(waiter, share, (entered, now))
        self._pump()

    def leave(self, waiter: Waiter) -> None:
        """The request is done, or its client has gone. Leaving twice does nothing."""
        turn = self._working.pop(waiter, None)
        if turn is None:
            if waiter in self._waiting:
                self._stop_waiting(waiter)
            else:
                self._forgotten.pop(waiter, None)
            return
        self._pace_s += PACE_WEIGHT * (self._loop.time() - turn[1] - self._pace_s)
        admission = self._admission
        admission.release()
        if admission.queued:
            self._pump()

    def forget_working(self) -> None:
        """Another engine takes over: what is at work on the one before takes none of the new one's slots.

        `set_slots` then admits.
        """
        for _ in self._working:
            self._admission.release()
        self._forgotten |= self._working
        self._working.clear()

    def expire_all(self) -> None:
        """Nobody is going to be served: let all who wait know."""
        for waiter in list(self._waiting):
            self._expire(waiter)

    def _wait(self, waiter: Waiter, share: Share, turn: _Turn) -> None:
        timer = self._loop.call_at(turn[0] + self._timeout_s, self._expire, waiter)
        self._waiting[waiter] = (share.key, turn, timer)

    def _expire(self, waiter: Waiter) -> None:
        self._stop_waiting(waiter)
        waiter.on_expired()

    def _stop_waiting(self, waiter: Waiter) -> None:
        key, _, timer = self._waiting.pop(waiter)
        timer.cancel()
        self._admission.leave(waiter, key)

    def _pump(self) -> None:
        """Admit while there are slots. A request that ends at once comes back here: the loop takes it up."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while (waiter := self._admission.admit_next()) is not None:
                _, (entered, began), timer = self._waiting.pop(waiter)
                timer.cancel()
                now = self._loop.time()
                self._working[waiter] = (entered, now)
                self._metrics.queue_wait.observe(now - began)
                waiter.on_admitted()
        finally:
            self._pumping = False
