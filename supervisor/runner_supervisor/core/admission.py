"""Who gets the next slot: a bounded queue, fair between keys. Pure.

As many requests are admitted as there are slots; the rest wait, up to a bound. Among the waiting, higher
priorities go first; within one, start-time fair queueing (Goyal, Vin and Cheng, 1996) shares the slots between
keys by weight. Each request gets a start tag: the virtual time at which its key, had it a share of its own,
would begin it. The lowest tag goes next, and virtual time is the tag last admitted. So a key with hundreds
waiting has tags far ahead, and the first request of another key goes before all of them. Against deficit
round-robin this has no ring in which a quiet key must find a place, and no way to save up turns.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Share:
    """What a key is entitled to: `weight` turns for each one of a key of weight 1; a higher `priority` goes first."""

    key: str
    weight: float = 1.0
    priority: int = 0


class _Lane(Generic[Item]):
    """One key's waiting requests, oldest first, and the start tag of the oldest."""

    __slots__ = ("share", "start", "waiting")

    def __init__(self, share: Share, start: float) -> None:
        self.share = share
        self.start = start
        self.waiting: OrderedDict[Item, None] = OrderedDict()


class Admission(Generic[Item]):
    """Admits items (hashable, each used once) to `slots` places; at most `queue_size` of them wait."""

    def __init__(self, *, slots: int, queue_size: int) -> None:
        self.slots = slots
        self.queue_size = queue_size
        self.busy = 0
        self.queued = 0
        self._virtual = 0.0
        self._lanes: dict[str, _Lane[Item]] = {}
        self._finished: dict[str, float] = {}

    def enter(self, item: Item, share: Share) -> int | None:
        """Ask for a place.

        Returns:
            0: admitted. n > 0: it waits, the n-th of all. None: the queue is full.
        """
        if self.busy < self.slots and not self.queued:
            self._charge(share, max(self._virtual, self._finished.get(share.key, 0.0)))
            return 0
        if self.queued >= self.queue_size:
            return None
        lane = self._lanes.get(share.key)
        if lane is None:
            lane = self._lanes[share.key] = _Lane(share, max(self._virtual, self._finished.get(share.key, 0.0)))
        lane.waiting[item] = None
        self.queued += 1
        return self.queued

    def put_back(self, item: Item, share: Share) -> None:
        """An item that has given up its place waits again, before all others of its key, full queue or not."""
        lane = self._lanes.get(share.key)
        if lane is None:
            lane = self._lanes[share.key] = _Lane(share, self._virtual)
        lane.waiting[item] = None
        lane.waiting.move_to_end(item, last=False)
        self.queued += 1

    def leave(self, item: Item, key: str) -> bool:
        """Give up waiting. False: the item was not waiting (any more)."""
        lane = self._lanes.get(key)
        if lane is None or item not in lane.waiting:
            return False
        del lane.waiting[item]
        self.queued -= 1
        if not lane.waiting:
            del self._lanes[key]
        return True

    def release(self) -> None:
        """An admitted item is done. `admit_next` then says who takes its place."""
        self.busy -= 1

    def admit_next(self) -> Item | None:
        """Admit the next waiting item if a slot is free. Call until it gives None."""
        if self.busy >= self.slots or not self._lanes:
            return None
        lane = min(self._lanes.values(), key=lambda lane: (-lane.share.priority, lane.start))
        item, _ = lane.waiting.popitem(last=False)
        self.queued -= 1
        lane.start = self._charge(lane.share, lane.start)
        if not lane.waiting:
            del self._lanes[lane.share.key]
        return item

    def _charge(self, share: Share, start: float) -> float:
        """Count an admission, and give the start tag of the key's next one."""
        self.busy += 1
        self._virtual = max(self._virtual, start)
        finished = self._finished[share.key] = start + 1.0 / share.weight
        if len(self._finished) > 2 * len(self._lanes) + 64:  # what virtual time has passed says nothing any more
            self._finished = {key: tag for key, tag in self._finished.items() if tag > self._virtual}
        return finished
