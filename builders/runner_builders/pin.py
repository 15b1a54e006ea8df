"""The pin: which llama.cpp is built, where to get it, and our patches to it (third_party)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from runner_builders.errors import SourceError
from runner_builders.patches import Patch, read_patches

LOCK_NAME = "llama.cpp.lock.toml"
REPOSITORY = Path(__file__).parents[2]
"""The source tree this package lies in, when it was not installed from a wheel."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A llama.cpp commit, its git URL, the sdist (requirement, sha256, folder) that holds it, and our patches."""

    commit: str
    git: str
    sdist_requirement: str
    sdist_sha256: str
    sdist_subdirectory: str
    patches: tuple[Patch, ...]


def read_pin(path: Path | None = None) -> Pin:
    """Read the lock file: `path`, else the one packed into the wheel, else the source tree's.

    Raises:
        SourceError: it is missing or malformed.
    """
    packed = Path(__file__).with_name("third_party") / LOCK_NAME
    path = path or (packed if packed.exists() else REPOSITORY / "third_party" / LOCK_NAME)
    try:
        with path.open("rb") as file:
            lock = tomllib.load(file)
        sdist = lock["sdist"]
        return Pin(
            commit=lock["commit"],
            git=lock["git"],
            sdist_requirement=sdist["requirement"],
            sdist_sha256=sdist["sha256"],
            sdist_subdirectory=sdist["subdirectory"],
            patches=read_patches(path.with_name("patches")),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise SourceError(f"cannot read the llama.cpp pin {path}: {error}; install the package again") from None
