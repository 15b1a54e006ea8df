"""The pin: which llama.cpp is built, where to get it, and our patches to it (third_party)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from runner_builders.errors import SourceError
from runner_builders.patches import Patch, read_patches

LOCK_NAME = "llama.cpp.lock.toml"
REPOSITORY = Path(__file__).parents[2]
"""The source tree this package lies in, when it was not installed from a wheel."""


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source distribution that carries the tree in one of its folders; `tree_sha256` is `tree.checksum`'s."""

    requirement: str
    sha256: str
    subdirectory: str
    tree_sha256: str

    @property
    def name(self) -> str:
        """What the package index knows it by."""
        return self.requirement.partition("==")[0]


@dataclass(frozen=True, slots=True)
class Pin:
    """A llama.cpp commit, its git URL, the sdist that holds the same, if there is one, and our patches."""

    commit: str
    git: str
    sdist: Sdist | None
    patches: tuple[Patch, ...]


def lock_path() -> Path:
    """The lock file: the one packed into the wheel, else the source tree's."""
    packed = Path(__file__).with_name("third_party") / LOCK_NAME
    return packed if packed.exists() else REPOSITORY / "third_party" / LOCK_NAME


def read_pin(path: Path | None = None) -> Pin:
    """Read the lock file, `path` or ours.

    Raises:
        SourceError: it is missing or malformed.
    """
    path = path or lock_path()
    try:
        with path.open("rb") as file:
            lock = tomllib.load(file)
        return Pin(
            commit=lock["commit"],
            git=lock["git"],
            sdist=Sdist(**lock["sdist"]) if "sdist" in lock else None,
            patches=read_patches(path.with_name("patches")),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SourceError(f"cannot read the llama.cpp pin {path}: {error}; install the package again") from None


def moved(lock: str, *, commit: str, sdist: Sdist | None) -> str:
    """A lock file's text with another pin in it; its comments stay. Without an sdist that table goes."""
    document = tomlkit.parse(lock)
    document["commit"] = commit
    if sdist is None:
        document.pop("sdist", None)
        return tomlkit.dumps(document)
    table = document.setdefault("sdist", tomlkit.table())
    table["requirement"] = sdist.requirement
    table["sha256"] = sdist.sha256
    table["subdirectory"] = sdist.subdirectory
    table["tree_sha256"] = sdist.tree_sha256
    return tomlkit.dumps(document)
