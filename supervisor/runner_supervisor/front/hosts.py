"""Which hosts a request may be addressed to: the answer to DNS rebinding.

A page of the web can have its own name point to 127.0.0.1, and then be of the same origin as whatever listens
there. What it cannot do is say another Host than its own name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

HOST: Final = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.\-]*[a-z0-9_])?)\.?(?::\d{1,5})?", re.IGNORECASE
)
"""A name or an address, with or without a port (RFC 9110, 7.2)."""

LONGEST: Final = 260
REMEMBERED: Final = 64
"""How many Host headers are remembered, with whether they name us: clients say the same ones again and again."""


class Hosts:
    """The hosts that are answered to.

    Args:
        allowed: names, with or without a port, which says nothing; `*.example.com` stands for all below it.
        loopback: whether the address that is listened on is this machine's own. Then loopback names and addresses
            and the `allowed` ones are answered to; else these too if any are allowed, and all if none is.
    """

    def __init__(self, allowed: Sequence[str], *, loopback: bool) -> None:
        names = [name_of(each.removeprefix("*.")) or "" for each in allowed]
        self._exact = frozenset(name for name, each in zip(names, allowed, strict=True) if not each.startswith("*."))
        self._below = tuple(f".{name}" for name, each in zip(names, allowed, strict=True) if each.startswith("*."))
        self._any = not loopback and not allowed
        self._known: dict[bytes, bool] = {}

    def refuses(self, host: bytes | None, authority: bytes | None) -> bool:
        """Whether a request is not for here.

        Args:
            host: its Host header.
            authority: the host that its target names itself (RFC 9112, 3.2.2), if it does.
        """
        if self._any:
            return False
        return not self._knows(host) or (authority is not None and not self._knows(authority))

    def _knows(self, host: bytes | None) -> bool:
        if host is None:
            return False
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._is_ours(host)
        return known

    def _is_ours(self, host: bytes) -> bool:
        name = name_of(host.decode("latin-1"))
        return name is not None and (name in self._exact or name.endswith(self._below) or is_loopback(name))


def name_of(host: str) -> str | None:
    """A host's name or address, in small letters, without port, brackets and last dot; None: it is no host."""
    match = HOST.fullmatch(host) if len(host) <= LONGEST else None
    return match["name"].lower().strip("[]") if match else None


def is_loopback(name: str) -> bool:
    """Whether a name or an address is always this machine's own (RFC 6761, 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
