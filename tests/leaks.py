"""What must not be written anywhere: keys and prompts are looked for in all that every supervisor of a run left.

Each supervisor is searched when it ends, so that only findings are kept, and no contents.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import httpx
import platformdirs

from runner_supervisor.planning import demo_model

PROMPTS = ("The sea", "the sea", "zebra-orchid-7731")
"""What tests ask for. The last is for those that mean to be found."""

MADE_KEY = re.compile(r"rsk_[A-Za-z0-9_-]{20,}")
SHOWN_ONCE = ("API key:", "curl ")
"""The banner's lines that show a new key."""

LEAST_CHARACTERS = 7
"""Shorter secrets turn up by chance."""


class Left(Protocol):
    """What a supervisor leaves: its folder, and what it printed."""

    state_dir: Path
    printed: list[str]


class Leaks:
    """The secrets of a run, where they were looked for, and where they were found."""

    def __init__(self) -> None:
        self.searched: list[str] = []
        self.found: list[str] = []
        self._secrets: dict[bytes, str] = {}
        self._live: list[Left] = []
        self.know(*PROMPTS, what="a prompt")

    def know(self, *secrets: str, what: str = "a key") -> None:
        """From now on, look for these too."""
        self._secrets |= {secret.encode(): what for secret in secrets if len(secret) >= LEAST_CHARACTERS}

    def begin(self, supervisor: Left, environment: Mapping[str, str]) -> None:
        """A supervisor starts, which is given the keys in its environment."""
        self.know(*(key.strip() for key in environment.get("RUNNER_API_KEYS", "").split(",")))
        self._live.append(supervisor)

    def end(self, supervisor: Left) -> None:
        """It has ended, and its files are still there."""
        self._search(supervisor)
        self._live.remove(supervisor)

    def search_live(self) -> None:
        """Look at those that still run."""
        for supervisor in self._live:
            self._search(supervisor)

    def search(self, name: str, data: bytes) -> None:
        """Look for every secret in what has that name."""
        self.searched.append(name)
        for secret, what in self._secrets.items():
            at = data.find(secret)
            if at >= 0:
                self.found.append(f"{what} in {name}: …{data[max(0, at - 80) : at + 40]!r}")

    def _search(self, supervisor: Left) -> None:
        printed = "\n".join(supervisor.printed)
        self.know(*MADE_KEY.findall(printed))
        self.search(
            f"{supervisor.state_dir}: stdout",
            "\n".join(line for line in supervisor.printed if not line.startswith(SHOWN_ONCE)).encode(),
        )
        for path in sorted(supervisor.state_dir.rglob("*")):
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):  # another supervisor may still run there
                    self.search(str(path), path.read_bytes())


LEAKS = Leaks()
"""One for a run: supervisors live in fixtures of every scope, and in helpers that no fixture reaches."""


def paths_of_this_machine(supervisor: Left) -> set[str]:
    """Folders and files that a client has no business to know of."""
    cache = os.environ.get("RUNNER_CACHE_DIR", str(platformdirs.user_cache_path("runner-supervisor")))
    home = str(Path.home())
    return {str(supervisor.state_dir), str(demo_model()), cache} | ({home + os.sep} if home != "/" else set())


def check_error_body(response: httpx.Response, paths: Iterable[str]) -> None:
    """Fail if an error names a path of this machine. `response` must have been read."""
    if response.is_error:
        shown = [path for path in paths if path in response.text]
        assert not shown, (
            f"{response.request.url} answered {response.status_code} and showed {shown}: {response.text}"
        )
