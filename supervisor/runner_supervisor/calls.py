"""What a run of the service asks of the command that began it, and tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.sizing import Sizing
from runner_supervisor.settings import Settings


@dataclass(frozen=True, slots=True)
class Ready:
    """What a newcomer wants to know once requests are served.

    `new_key` is seen this once only. `given_in`: the settings and files that further keys come from. `host` is what
    was asked for, where `address` is one that this machine can use. `open_to_all`: it needs no
    key, and other machines can reach it. `certificate`: what it is served with, over HTTPS.
    """

    address: str
    model: Path
    backend: str
    log: Path
    needs_key: bool
    new_key: str | None
    given_in: tuple[str, ...]
    state_dir: Path
    host: str
    open_to_all: bool
    certificate: Path | None


@dataclass(frozen=True, slots=True)
class Calls:
    """What a run asks of whoever began it.

    `find_binary` finds or builds llama-server, which may take minutes. For a reload `load` reads the settings
    again, and `present_binary` finds the llama-server there is. `on_sizing` and `on_ready` are called once, when it
    is known what the model takes, and when it serves.
    """

    find_binary: Callable[[], EngineBinary]
    load: Callable[[], Settings]
    present_binary: Callable[[], EngineBinary]
    on_sizing: Callable[[Sizing], None]
    on_ready: Callable[[Ready], None]
