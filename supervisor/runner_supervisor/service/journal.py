"""Log lines as the journal wants them: their priority first, and no time, which it knows itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s, from the level of a record on; less is 7."""


def goes_to_journal(environ: Mapping[str, str], *, descriptor: int) -> bool:
    """Whether what is written to `descriptor` goes to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    found = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(logging.Formatter):
    """Puts sd-daemon(3)'s prefix before each line of a record."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, a traceback's too."""
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())
