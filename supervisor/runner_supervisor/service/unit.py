"""What the machine's service manager is to be told to run, and what it takes to tell it: values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

NAME = "runner-supervisor"

OPEN_FILES = 65_536
"""How many files the service may have open: two for each request at work, and connections that wait."""


class Scope(StrEnum):
    """Whose service it is: the machine's, or one user's."""

    SYSTEM = "system"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Unit:
    """A service. Paths are absolute.

    `command`: the `runner-supervisor` to run. `host`, `port`: where the manager listens for it. `environment`:
    settings, as variables. `keys_file`: API keys, which the manager reads and hands over. `stop_s`: how long it may
    take to stop, in seconds. `user`: as whom a machine's service runs. `gpu_groups`: groups that GPUs are for.
    """

    scope: Scope
    command: Path
    host: str = "127.0.0.1"
    port: int = 8080
    environment: tuple[tuple[str, str], ...] = ()
    keys_file: Path | None = None
    stop_s: float = 60.0
    user: str = NAME
    gpu_groups: tuple[str, ...] | None = None


Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installation:
    """What an installation consists of.

    `files`: their paths and texts. `enable`: commands that make it known once the files are there. `start`: what
    starts it now. `disable`: what ends it before the files go. `after`: what to do when they have gone.
    """

    files: tuple[tuple[Path, str], ...]
    enable: tuple[Command, ...]
    start: tuple[Command, ...]
    disable: tuple[Command, ...]
    after: tuple[Command, ...]
