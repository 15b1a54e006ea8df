"""A rotating log on disk: its last lines, and what comes after. It can be read when no supervisor runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def last_lines(path: Path, count: int, wanted: Callable[[str], bool]) -> list[str]:
    """The last `count` lines that are wanted; none if there is no such file yet."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return list(deque(filter(wanted, (line.rstrip("\n") for line in file)), maxlen=count))
    except FileNotFoundError:
        return []


def new_lines(path: Path) -> Iterator[str | None]:
    """Lines as they are added from now on, across rotations; None whenever there is none at the moment."""
    from_start = not path.exists()
    while True:
        try:
            file = path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            yield None
            continue
        with file:
            if not from_start:
                file.seek(0, os.SEEK_END)
            from_start = True
            partial = ""
            while True:
                partial += file.readline()
                if partial.endswith("\n"):
                    yield partial.rstrip("\n")
                    partial = ""
                elif not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    break
                else:
                    yield None
