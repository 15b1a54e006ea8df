"""How long the rest of a compile takes, judged by what each of its steps took the last time. Pure.

Steps differ a hundredfold, and the longest come last: counting them alone is wrong by half for most of a build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

KNOWN_SHARE = 0.02
"""Before this share of the work is done the time left is a guess."""


class Pace:
    """Follows a compile whose steps are known by what they make; `took_s` is from builds before."""

    def __init__(self, steps: Sequence[str], *, took_s: Mapping[str, float]) -> None:
        known = [took_s[step] for step in steps if step in took_s]
        usual = sum(known) / len(known) if known else 1.0
        self._weights = {step: took_s.get(step, usual) for step in steps}
        self._total = sum(self._weights.values())
        self._done = 0.0

    def done(self, step: str) -> None:
        """One step is done."""
        self._done += self._weights.pop(step, 0.0)

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left after `elapsed_s` of compiling, or None: it is too early to tell."""
        if self._done <= self._total * KNOWN_SHARE:
            return None
        return elapsed_s * (self._total - self._done) / self._done


def durations(ninja_log: Iterable[str]) -> dict[str, float]:
    """What each step took, in seconds, by what it made: from ninja's log (start ms, end ms, mtime, output, hash)."""
    fields = (line.split("\t") for line in ninja_log if not line.startswith("#"))
    return {one[3]: (int(one[1]) - int(one[0])) / 1000 for one in fields if len(one) == 5}
