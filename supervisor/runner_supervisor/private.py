"""Files and folders of ours: for their owner alone, whatever the umask, and never through somebody else's link.

What is opened is checked by its descriptor, not by its name, so that nothing can take its place between a look and
the first write. Nothing is truncated or written before it has been checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from runner_supervisor.errors import ConfigError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
ONLY_OWNER = 0o077
"""The umask of a supervisor: what we start makes its files for the owner alone, too."""

TRIES = 100
"""How often a file is opened again that loses its name meanwhile."""

Identity = tuple[int, int]
"""A file's device and number on it: another one put in its place has others."""

_FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_NO_FILE = frozenset({errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP})
"""What open(2) says of links that it may not follow, and of what is no file."""


def private_folder(path: Path) -> None:
    """Make a folder for its owner alone, with those above it that are missing. One of ours is narrowed to 0700.

    Raises:
        ConfigError: it is a link, or belongs to somebody else.
        OSError: it cannot be made.
    """
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if path.is_symlink():
        raise ConfigError(f"{path} is a link; name the folder it leads to, or remove it")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _narrow(path, descriptor, os.fstat(descriptor), FOLDER_MODE)
    finally:
        os.close(descriptor)


def open_private(path: Path, *, append: bool = False) -> int:
    """Open a file of ours to read and write, made with mode 0600 if there is none. One of ours is narrowed to 0600.

    Args:
        path: its name; the folder it lies in must exist.
        append: whether writes go to its end.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        ConfigError: there is a link, a pipe, a device or a folder of that name, a file that belongs to somebody else,
            or one with further names (hard links).
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if append else 0) | _FILE_FLAGS
    for _ in range(TRIES):
        try:
            descriptor = os.open(path, flags, FILE_MODE)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise _no_file(path) from None
            raise
        try:
            if _is_ours(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise ConfigError(f"{path} is being replaced all the time; find out by whom")


def own_database(path: Path) -> None:
    """Make a file for SQLite, or see that it, and what SQLite has put beside it, is ours alone.

    What is there is not opened: closing it again would take the locks of this process's connections with it (POSIX).
    SQLite gives the files it puts beside it (-wal, -shm) the mode of the file itself (`findCreateFileMode` in its
    os_unix.c), whatever the umask.

    Raises:
        ConfigError: one of them is a link or no file, belongs to somebody else, or has further names (hard links).
        OSError: it cannot be made or looked at.
    """
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        _refuse_others(path)
    else:
        os.fchmod(made, FILE_MODE)
        os.close(made)
    for end in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            _refuse_others(path.with_name(path.name + end))


def identity(path: Path) -> Identity | None:
    """Which file has this name now; None: there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def write_private(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Put a file of ours in the place of whatever has that name, atomically. No link is followed.

    It is not synchronised to the disk: what it says is of no use after a power cut, and the disk may take seconds.
    `mode`: its permissions, where it is for others, too.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE_FLAGS, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_socket(path: Path) -> None:
    """Remove a socket of ours, if there is one.

    Raises:
        ConfigError: what has that name is no socket, or not ours.
        OSError: it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(f"{path} is not a socket of ours; remove it, or name another --state-dir")
        path.unlink()


def _is_ours(path: Path, descriptor: int) -> bool:
    """Refuse what is no file of ours alone. False: it has lost its name since it was opened."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _no_file(path)
    if found.st_nlink > 1:
        raise ConfigError(f"{path} has further names (hard links), by which others may read it; remove it")
    _narrow(path, descriptor, found, FILE_MODE)
    return found.st_nlink == 1


def _narrow(path: Path, descriptor: int, found: os.stat_result, mode: int) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to somebody else (user {found.st_uid}, and this is user {os.geteuid()}); "
            "remove it or name another --state-dir"
        )
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(descriptor, mode)


def _no_file(path: Path) -> ConfigError:
    return ConfigError(f"{path} is a link, a folder or a device where a file of ours belongs; remove it")


def _refuse_others(file: Path) -> None:
    found = file.lstat()
    wrong = None
    if not stat.S_ISREG(found.st_mode):
        wrong = "is a link or no file at all"
    elif found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid}, and this is user {os.geteuid()}"
    elif found.st_nlink > 1:
        wrong = "has a second name (a hard link)"
    if wrong:
        raise ConfigError(
            f"{file} {wrong}, so others might write into it; run as its owner, make it a file of its own, "
            "or name another folder with --state-dir"
        )
    if stat.S_IMODE(found.st_mode) != FILE_MODE:
        file.chmod(FILE_MODE)
