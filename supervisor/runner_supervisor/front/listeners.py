"""The sockets that the front listens on."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from runner_supervisor.errors import AddressError
from runner_supervisor.private import remove_socket


def bind_tcp(host: str, port: int) -> socket.socket:
    """Take a TCP address. Connections are refused until the front serves: a build may come first.

    Raises:
        AddressError: it is in use, not this machine's, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --host or --port"
        ) from None
    return listener


def bind_unix(path: Path) -> socket.socket:
    """Take a Unix socket that only its owner can reach.

    Raises:
        ConfigError: what has that name is no socket of ours.
    """
    remove_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener
