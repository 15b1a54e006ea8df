"""A source tree as a value: which of its files count, their checksum, and a copy of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from runner_builders.errors import BuilderError
from runner_builders.manifest import sha256_of


def checksum(tree: Path) -> str:
    """The SHA-256, in hex, of all paths and bytes that would be copied; times, modes and empty folders do not count.

    Each file adds its path, the SHA-256 of what it holds, and its end; a link adds where it points.
    """
    whole = hashlib.sha256()
    for name in sorted(path.relative_to(tree).as_posix() for path in _files(tree)):
        whole.update(f"{name}\0{_content(tree / name)}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _content(path: Path) -> str | None:
    """What tells one file's content from another's; None without a file."""
    if path.is_symlink():
        return f"-> {path.readlink().as_posix()}"
    return sha256_of(path) if path.is_file() else None


def differences(part: Path, whole: Path) -> list[str]:
    """The files of `part` that `whole` has not or has otherwise, as paths below both."""
    names = [path.relative_to(part).as_posix() for path in _files(part)]
    return sorted(name for name in names if _content(part / name) != _content(whole / name))


def copy(source: Path, tree: Path) -> None:
    """Copy the source, times and all: what was compiled from unchanged files need not be compiled again.

    Raises:
        BuilderError: there is no room.
    """
    try:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(source, tree, symlinks=True, ignore=partial(_leave_out, source))
    except OSError as error:  # shutil.Error, which names each file, is one
        why = error.strerror or f"{len(error.args[0])} files failed, the first with {error.args[0][0][2]}"
        raise BuilderError(f"cannot copy llama.cpp's source to {tree}: {why}; make room there") from None


def _files(tree: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(tree):
        out = _leave_out(tree, folder, [*folders, *names])
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in out and name not in links]
        found += [Path(folder) / name for name in [*names, *links] if name not in out]
    return found


def _leave_out(source: Path, folder: str, names: list[str]) -> set[str]:
    """At the top, what is no source: git's own, and builds of the owner's."""
    return {name for name in names if name == ".git" or name.startswith("build")} if Path(folder) == source else set()
