"""The builds there are: which, how large, in use by what, whole or damaged; and which can go."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from runner_builders.cache import Cache
from runner_builders.errors import BuilderError
from runner_builders.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Build:
    """One finished build. `in_use`: `start` takes it. `pids`: processes that run it now."""

    key: str
    manifest: Manifest
    size_bytes: int
    finished_s: float
    in_use: bool
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder of the cache that nothing needs any more."""

    path: Path
    size_bytes: int


def list_builds(cache: Cache) -> list[Build]:
    """All finished builds, the latest first."""
    running = _running(cache)
    current = cache.used()[:1]
    found = []
    for folder in (cache.root / "builds").glob("*"):
        present = cache.present(folder.name)
        if present:
            path, manifest = present
            found.append(
                Build(
                    key=folder.name,
                    manifest=manifest,
                    size_bytes=_size_bytes(folder),
                    finished_s=path.stat().st_mtime,
                    in_use=(folder.name,) == current,
                    pids=running.get(folder.name, ()),
                )
            )
    return sorted(found, key=lambda build: build.finished_s, reverse=True)


def use(cache: Cache, prefix: str) -> str:
    """Make the build whose key begins with `prefix` the one in use; return its key.

    Raises:
        BuilderError: there is no such build, several are meant, or it is damaged.
    """
    keys = [build.key for build in list_builds(cache) if build.key.startswith(prefix)]
    if len(keys) != 1:
        found = f"{len(keys)} builds begin with {prefix}" if keys else f"no build begins with {prefix}"
        raise BuilderError(f"{found}; `runner-supervisor builds list` shows all")
    if not cache.finished(keys[0]):
        raise BuilderError(f"build {keys[0]} is damaged; `runner-supervisor build` makes it again")
    cache.use(keys[0])
    return keys[0]


def leftovers(cache: Cache, *, commit: str) -> list[Leftover]:
    """What `prune` removes: builds but the one in use, the one before it and those that run; sources of other commits
    than the pinned one; compile folders that nobody is at work in."""
    running = _running(cache)
    kept_builds = {*cache.used()[:2], *running}
    folders = [folder for folder in (cache.root / "builds").glob("*") if folder.name not in kept_builds]
    folders += [folder for folder in (cache.root / "sources").glob("*") if folder.name != commit]
    folders += [folder for folder in (cache.root / "compile").glob("*-*") if folder.is_dir()]
    return [Leftover(folder, _size_bytes(folder)) for folder in sorted(folders) if not _is_locked(cache, folder)]


def remove(leftover: Leftover) -> None:
    """Remove it.

    Raises:
        BuilderError: it cannot be removed.
    """
    try:
        shutil.rmtree(leftover.path)
    except OSError as error:
        raise BuilderError(f"cannot remove {leftover.path}: {error.strerror}; remove it by hand") from None


def _is_locked(cache: Cache, folder: Path) -> bool:
    """Whether somebody builds the key that the folder's name has in it."""
    key = folder.name.removeprefix("new-").partition("-")[0]
    if not cache.lock_path(key).exists():
        return False
    lock = FileLock(cache.lock_path(key))
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


def _running(cache: Cache) -> dict[str, tuple[int, ...]]:
    """Processes by the key of the build that they run."""
    builds = (cache.root / "builds").resolve()
    found: dict[str, tuple[int, ...]] = {}
    for process in psutil.process_iter(["exe"]):
        exe = Path(process.info["exe"] or "")
        if exe.is_relative_to(builds):
            key = exe.relative_to(builds).parts[0]
            found[key] = (*found.get(key, ()), process.pid)
    return found


def _size_bytes(folder: Path) -> int:
    return sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names)
