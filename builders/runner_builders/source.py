"""llama.cpp's source at the pin: the first that is there, else fetched, always verified.

An explicit folder; `third_party/llama.cpp`; the cache; git (one commit, shallow); the package index's sdist.
A checkout is verified by its commit, and must be unchanged; any other tree by its checksum.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from runner_builders.errors import SourceError
from runner_builders.fetch import PIP_TIMEOUT_S, Say, change_in, commit_of, fetch
from runner_builders.pin import REPOSITORY, Pin
from runner_builders.tree import checksum


@dataclass(frozen=True, slots=True)
class Source:
    """A verified source tree, its checksum, and where it came from."""

    path: Path
    commit: str
    origin: str
    sha256: str


def vendored() -> Path:
    """Where a vendored tree lies."""
    return REPOSITORY / "third_party" / "llama.cpp"


def find_source(pin: Pin, *, explicit: Path | None, cache: Path, say: Say) -> Source:
    """Find or fetch the pinned source.

    Args:
        pin: which commit.
        explicit: a folder that the user named.
        cache: the folder that keeps fetched sources.
        say: told what is being done, in words.

    Raises:
        SourceError: what was found is not the pinned commit (both are named), or nothing can be fetched.
    """
    if explicit:
        return verified(explicit, pin, origin=f"directory {explicit}")
    if (vendored() / "CMakeLists.txt").exists():
        return verified(vendored(), pin, origin="third_party/llama.cpp")
    cached = cache / "sources" / pin.commit
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"source-{pin.commit}.lock", timeout=PIP_TIMEOUT_S):
        if cached.exists():
            try:
                return verified(cached, pin, origin="cache")
            except SourceError:
                say(f"the source in {cached} is not what is pinned; fetching it again")
        return fill(cached, pin, say)


def fill(destination: Path, pin: Pin, say: Say) -> Source:
    """Fetch the source; it appears at `destination`, in the place of what was there, whole or not at all.

    Raises:
        SourceError: it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix="fetch-") as folder:
        tree = Path(folder) / "tree"
        origin = fetch(pin, tree, say)
        shutil.rmtree(destination, ignore_errors=True)
        tree.rename(destination)
    return verified(destination, pin, origin=origin)


def verified(path: Path, pin: Pin, *, origin: str) -> Source:
    """The tree at `path`, if it is the pinned one.

    Raises:
        SourceError: it is not, and how it differs.
    """
    if not (path / "CMakeLists.txt").exists():
        raise SourceError(f"no llama.cpp source in {path} (no CMakeLists.txt there); name its top folder")
    digest = checksum(path)
    if (path / ".git").exists():
        _require_commit(path, pin)
    elif pin.sdist is None or digest != pin.sdist.tree_sha256:
        pinned = pin.sdist.tree_sha256 if pin.sdist else "a git checkout"
        raise SourceError(
            f"the source in {path} has sha256 {digest}, but {pinned} is pinned; "
            "fetch it again, or leave the folder out to have it fetched"
        )
    return Source(path=path, commit=pin.commit, origin=origin, sha256=digest)


def _require_commit(path: Path, pin: Pin) -> None:
    found = commit_of(path)
    if found != pin.commit:
        raise SourceError(
            f"the source in {path} is at commit {found or 'unknown'}, but {pin.commit} is pinned; "
            "check that commit out, or leave the folder out to have it fetched"
        )
    changed = change_in(path)
    if changed:
        raise SourceError(
            f"the source in {path} was changed, {changed} for one; put changes into third_party/patches, "
            "and take them back there (`git stash`)"
        )
