"""Lines for a file, written by a thread of its own, so that no disk ever stops the event loop.

What waits is bounded: beyond that, lines are dropped and counted, and a line says how many. On a full disk it tries
again every second.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from runner_supervisor.rotating import RotatingFile

logger = logging.getLogger(__name__)

PAUSE_S: Final = 0.5
"""Lines gather so long before they are written, in seconds."""

RETRY_S: Final = 1.0
"""How long after a failed write it is tried again, in seconds."""

BATCH_ITEMS: Final = 128
BATCH_BYTES: Final = 256 * 1024
"""What is encoded at a time: while the thread does that the loop cannot run."""

BATCH_LINES: Final = 4096
"""How many finished lines are taken at a time. Taking them is soon done, while each time that the thread asks for
Python's lock under load costs dozens of switches between the two: the loop lets go of it at every event.
"""

END_S: Final = 2.0
"""How long the end waits for the last lines, in seconds."""

Item = TypeVar("Item")


class Scribe(Generic[Item]):
    """Writes items, in order. `add` is for one thread, the event loop's."""

    def __init__(
        self,
        file: RotatingFile,
        *,
        encode: Callable[[Item], bytes] | None,
        missing: Callable[[int], bytes],
        most_items: int,
        most_bytes: int = 0,
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        """Begin.

        Args:
            file: where to; it is closed at the end.
            encode: the line that an item becomes, without its end; called in the thread. None: items are lines.
            missing: the line that says how many items were dropped.
            most_items: how many may wait.
            also: gets the lines of finished items, too; called in the thread.
            most_bytes: how large those that wait may be, in bytes; 0: they are as good as nothing.
        """
        self._file = file
        self._encode = encode
        self._missing = missing
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._also = also
        self._waiting: deque[tuple[Item, int]] = deque()
        # Each of these is counted up by one thread alone, so that none needs a lock.
        self._added_bytes = self._written_bytes = 0
        self._dropped = self._told = 0
        self._some = threading.Event()
        self._ends = threading.Event()
        self._worker = threading.Thread(target=self._run, name=f"scribe-{file.path.name}", daemon=True)
        self._worker.start()

    def add(self, item: Item, size_bytes: int = 0) -> None:
        """Have an item written soon, or drop it if too much waits."""
        waiting = self._waiting
        held = self._added_bytes - self._written_bytes
        if len(waiting) >= self._most_items or (held and held + size_bytes > self._most_bytes):
            self._dropped += 1
            return
        self._added_bytes += size_bytes
        waiting.append((item, size_bytes))
        if len(waiting) == 1:
            self._some.set()

    def close(self, within_s: float = END_S) -> None:
        """Write what waits, and end. What a disk has not taken within so many seconds is lost."""
        self._ends.set()
        self._some.set()
        self._worker.join(within_s)
        if self._worker.is_alive() or self._waiting:
            logger.warning("the last lines of %s could not be written within %g s", self._file.path, within_s)

    def _run(self) -> None:
        ended = False
        while not ended:
            self._some.wait()
            self._ends.wait(PAUSE_S)
            self._some.clear()
            ended = self._ends.is_set()  # asked after clearing, and before what waits is written
            while (data := self._batch()) and self._write(data):
                pass
        self._file.close()

    def _write(self, data: bytes) -> bool:
        while not self._file.write(data):
            if self._ends.wait(RETRY_S):
                return self._file.write(data)
        return True

    def _batch(self) -> bytes:
        lines: list[bytes] = []
        if missing := self._dropped - self._told:
            self._told += missing
            lines.append(self._missing(missing))
        lines += self._encoded() if self._encode else self._finished()
        return b"\n".join([*lines, b""]) if lines else b""

    def _finished(self) -> list[bytes]:
        """Lines, whose sizes nobody has given."""
        take = self._waiting.popleft
        taken = [take() for _ in range(min(len(self._waiting), BATCH_LINES))]
        lines = [line for line, _ in cast("list[tuple[bytes, int]]", taken)]
        if self._also:
            self._also(lines)
        return lines

    def _encoded(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        encode = cast("Callable[[Item], bytes]", self._encode)
        while self._waiting and len(lines) < BATCH_ITEMS and size < BATCH_BYTES:
            item, size_bytes = self._waiting.popleft()
            lines.append(encode(item))
            size += size_bytes
            self._written_bytes += size_bytes
        return lines
