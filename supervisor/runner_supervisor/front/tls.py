"""TLS on the address that clients use: 1.2 or newer, with a certificate that may be renewed while it is served."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from runner_supervisor.errors import ConfigError

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""How long a client may take to agree on keys, in seconds; one that speaks plain HTTP is refused at once."""

PROTOCOLS = ["http/1.1"]

Stamp = tuple[int, int, int]
"""What changes with a file: its inode, its size in bytes, when it was written in nanoseconds."""


class Certificate:
    """A certificate chain and its private key, as they are in two PEM files now.

    `context` is for the listener. Connections get the newest certificate as they are made, and keep it.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files.

        Raises:
            ConfigError: they cannot be read, or do not belong together.
        """
        self._certificate, self._key = certificate, key
        self._seen = self._look()
        self._newest = self.context = self._read()
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Read the files again if they have changed, and return whether another certificate is in force.

        Files that cannot be used, as while one has been replaced and the other has not yet, change nothing but the
        log, and are read again when they have changed again.
        """
        seen = self._look()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._newest = self._read()
        except ConfigError as error:
            logger.log(logging.ERROR, "%s; until then the certificate stays what it was", error)
            return False
        logger.info("the certificate in %s has changed and is in force", self._certificate)
        return True

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for each new connection, whether or not it names a host."""
        connection.context = self._newest

    def _look(self) -> tuple[Stamp | None, ...]:
        return tuple(_stamp(path) for path in (self._certificate, self._key))

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(PROTOCOLS)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"cannot use the certificate {self._certificate} with the key {self._key}: {_said(error)}; "
                "both must be PEM files that belong together"
            ) from None
        return context


def _no_password() -> str:
    raise ValueError("the key needs a password; take that off, for nobody is here to give it")


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _said(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate, or no key").replace("_", " ").lower()
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
