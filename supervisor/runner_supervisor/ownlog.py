"""The supervisor's own log as a file, for `runner-supervisor logs`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from runner_supervisor.logformat import TEXT_LINE
from runner_supervisor.rotating import RotatingFile


class OwnLog(logging.Handler):
    """Writes log records to a file of ours."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = RotatingFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._file.write(f"{self.format(record)}\n".encode("utf-8", "replace"))
        except Exception:  # noqa: BLE001  a line that cannot be formatted must not end what it is about
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Keep what is logged meanwhile in a file."""
    handler = OwnLog(path)
    handler.setFormatter(logging.Formatter(TEXT_LINE))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
