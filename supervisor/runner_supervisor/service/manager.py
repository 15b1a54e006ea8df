"""The service manager that started us, if one did: messages to it, and the listener that it hands over.

The protocols are sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3); nothing of libsystemd's is needed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from runner_supervisor.errors import ConfigError

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3
"""The first descriptor that is handed over (sd_listen_fds(3), SD_LISTEN_FDS_START)."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Where messages go, None for nowhere, and how long it waits for signs of life before it kills us, in seconds."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], *, pid: int) -> Manager:
        """The manager that this environment, given to process `pid`, names."""
        meant = environ.get("WATCHDOG_PID") in {None, str(pid)}
        microseconds = environ.get("WATCHDOG_USEC", "") if meant else ""
        return cls(
            address=environ.get("NOTIFY_SOCKET") or None,
            watchdog_s=int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None,
        )

    def tell(self, *assignments: str) -> bool:
        """Send assignments like `READY=1`, in one message, without waiting.

        Returns:
            Whether they were sent; why not is logged.
        """
        if self.address is None:
            return True
        path = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
                door.setblocking(False)
                door.connect(path)
                door.send("\n".join(assignments).encode())
        except OSError as error:
            logger.warning("cannot tell the service manager %s: %s", assignments[0], error)
            return False
        return True


def inherited_listener(environ: Mapping[str, str], *, pid: int) -> socket.socket | None:
    """The TCP socket that the service manager listens on for process `pid`, or None. To be called once.

    Raises:
        ConfigError: something else was handed over.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return None
    count = environ.get("LISTEN_FDS", "0")
    if count != "1":
        raise ConfigError(f"the service manager hands over {count} sockets; give the socket unit one ListenStream=")
    os.set_inheritable(FIRST_DESCRIPTOR, False)
    listener = socket.socket(fileno=FIRST_DESCRIPTOR)
    over_ip = listener.family in {socket.AF_INET, socket.AF_INET6}
    if not over_ip or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise ConfigError("the socket that the service manager hands over is no TCP listener; see ListenStream=")
    return listener
