"""Log records as the journal wants them: with their priority and fields, and no time, which it knows itself."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from runner_supervisor.logformat import FIELDS

PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s, from the level of a record on; less is 7."""

SOCKET = "/run/systemd/journal/socket"
NAME = "runner-supervisor"


def goes_to_journal(environ: Mapping[str, str], *, descriptor: int) -> bool:
    """Whether what is written to `descriptor` goes to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    found = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal: MESSAGE, PRIORITY, LOGGER, and what a record has besides as RUNNER_REQUEST_ID and
    the like. Where that cannot be (a record too long for a datagram, no such socket) it writes them to stderr, whose
    lines the journal takes too, with their priority alone.
    """

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._lines = logging.StreamHandler()
        self._lines.setFormatter(JournalFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; never waits."""
        try:
            self._socket.sendto(datagram(record, self.format(record)), self._path)
        except OSError:
            self._lines.emit(record)
        except Exception:  # noqa: BLE001  a record that cannot be formatted must not end what it is about
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def datagram(record: logging.LogRecord, message: str) -> bytes:
    """A record in the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    more = {
        f"RUNNER_{name.upper()}": value for name, value in getattr(record, FIELDS, {}).items() if value is not None
    }
    fields = {
        "MESSAGE": message,
        "PRIORITY": _priority(record),
        "SYSLOG_IDENTIFIER": NAME,
        "LOGGER": record.name,
        **more,
    }
    return b"".join(_field(name, str(value).encode("utf-8", "replace")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%b=%b\n" % (name.encode(), value)


def _priority(record: logging.LogRecord) -> int:
    return next((number for level, number in PRIORITIES if record.levelno >= level), 7)


class JournalFormatter(logging.Formatter):
    """Puts sd-daemon(3)'s prefix before each line of a record."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, a traceback's too."""
        return "\n".join(f"<{_priority(record)}>{line}" for line in super().format(record).splitlines())
