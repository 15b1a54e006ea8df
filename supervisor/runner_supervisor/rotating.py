"""A log of ours on disk: for its owner alone, in several files of bounded size. What fails is said once."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

from runner_supervisor.errors import ConfigError
from runner_supervisor.private import open_private

logger = logging.getLogger(__name__)

FILE_BYTES = 10 * 1024 * 1024
FILE_COUNT = 5


class RotatingFile:
    """`path` has the newest lines; `path.1` those before, and so on. Not for several threads at once."""

    def __init__(self, path: Path, *, most_bytes: int = FILE_BYTES, files: int = FILE_COUNT) -> None:
        """Open it, or begin it.

        Args:
            path: the file with the newest lines; its folder must exist.
            most_bytes: how long a file may get, in bytes. What is written at once stays in one file.
            files: how many files there are at most.

        Raises:
            ConfigError: something else has that name (see `open_private`), or it cannot be opened.
        """
        self.path = path
        self._most_bytes = most_bytes
        self._files = files
        self._failing = False
        try:
            self._descriptor: int | None = open_private(path, append=True)
        except OSError as error:
            raise ConfigError(f"cannot write the log {path}: {error.strerror}") from None

    def write(self, data: bytes) -> bool:
        """Add whole lines, all of them or none.

        Returns:
            Whether they were written. Why they were not is logged, once until it works again.
        """
        try:
            self._add(data)
        except (OSError, ConfigError) as error:
            if not self._failing:
                self._failing = True  # first: the warning may come back here
                logger.warning("cannot write %s: %s; lines may be lost until it can be", self.path, error)
            return False
        if self._failing:
            self._failing = False
            logger.info("%s can be written again", self.path)
        return True

    def close(self) -> None:
        """Close it. What is written later opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _add(self, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = open_private(self.path, append=True)
        size = os.fstat(self._descriptor).st_size
        if size and size + len(data) > self._most_bytes:
            self._rotate()
            self._descriptor, size = open_private(self.path, append=True), 0
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, size)  # a full disk takes the first half of a line
            raise

    def _rotate(self) -> None:
        """Move every file on by one. Names are moved, not followed, whatever somebody has put there."""
        self.close()
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, self._files))]
        for name, older in reversed(list(itertools.pairwise(names))):
            if name.is_symlink() or name.exists():
                name.replace(older)
