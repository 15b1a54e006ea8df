"""Patterns of sentences: `{a|b}` is one of these, `[a|b]` is one of these or nothing; they may be nested."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

_INNERMOST = re.compile(r"\{([^{}\[\]]*)\}|\[([^{}\[\]]*)\]")
_MARKS = re.compile(r"[{}\[\]|\s]+")

PLEASE = "[Please |Can you please |Could you |Can you ]"


@dataclass(frozen=True)
class Topic:
    """One answer, and the patterns of the prompts that get it."""

    answer: str
    prompts: tuple[str, ...]


def pick(choices: Sequence[str], dice: random.Random, *, likelier: float = 1.0) -> str:
    """One of these; each is so many times as likely as the one after it."""
    return dice.choices(choices, [likelier**-rank for rank in range(len(choices))])[0]


def one_of(pattern: str, dice: random.Random, *, likelier: float = 1.0) -> str:
    """One sentence of a pattern; `likelier` as in `pick`."""

    def choose(found: re.Match[str]) -> str:
        if found[1] is not None:
            return pick(found[1].split("|"), dice, likelier=likelier)
        return pick(found[2].split("|"), dice, likelier=likelier) if dice.random() < 0.5 else ""

    while (text := _INNERMOST.sub(choose, pattern)) != pattern:
        pattern = text
    return pattern


def words_of(pattern: str) -> list[str]:
    """All words that sentences of a pattern have."""
    return [word for word in _MARKS.split(pattern) if word]
