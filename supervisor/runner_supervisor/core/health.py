"""Is the engine getting anywhere? One verdict from what it shows of itself, while it loads and while it serves.

/health says 200 with the main thread frozen, so what counts is progress: numbers that move with the work. A
process that moves none of them but uses the processor may be in one long batch, and gets ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PATIENCE_FACTOR = 10
"""How much longer a process may go without progress while it uses the processor."""

BUSY_SHARE = 0.1
"""From which share of one processor on a process counts as using it."""

LONGEST_GAP_S = 5.0
"""What lies between two looks counts no longer than this: if it was more, it was we who were held up."""

Marks = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at the engine showed.

    `answered`: it answered what only its main thread can answer. `busy`: it has work to do. `elsewhere`: but not
    its main thread: a long prompt is cut into tokens, say. `marks`: numbers that move with the work, None where one
    could not be had. `cpu_s`: processor time used so far, in seconds.
    """

    at: float
    answered: bool
    busy: bool
    elsewhere: bool
    marks: Marks
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How long the engine has shown nothing, in seconds: `still_s` no progress, `dead_s` no processor time either."""

    last: Sight
    still_s: float = 0.0
    dead_s: float = 0.0

    def look(self, sight: Sight) -> Progress:
        """What is known after one more look."""
        last = self.last
        gap_s = sight.at - last.at
        marks = tuple(new if new is not None else old for new, old in zip(sight.marks, last.marks, strict=True))
        seen = replace(sight, marks=marks)
        if marks != last.marks or (sight.answered and not sight.busy):
            return Progress(seen)
        counted_s = min(gap_s, LONGEST_GAP_S)
        works = (sight.answered and sight.elsewhere) or sight.cpu_s - last.cpu_s >= BUSY_SHARE * gap_s
        return Progress(seen, self.still_s + counted_s, 0.0 if works else self.dead_s + counted_s)

    def left_s(self, limit_s: float) -> float:
        """In how many seconds this will be a stall if nothing moves; 0 or less: it is one.

        Args:
            limit_s: how long nothing at all may move, in seconds.
        """
        return min(limit_s - self.dead_s, PATIENCE_FACTOR * limit_s - self.still_s)
