"""Where a request comes from, also through proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

HOPS: Final = 16
"""How many of the last entries of X-Forwarded-For are looked at."""


class Proxies:
    """Proxies whose word is taken for where a request comes from. `trusted`: addresses or networks."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(each) for each in trusted]

    def client(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """The client's address.

        Args:
            peer: the address at the other end of the connection.
            forwarded_for: the values of X-Forwarded-For, in order. Each proxy appends whom it heard, so the last
                entry that no trusted proxy has is the client; what stands before that, the client may have made up.
        """
        address = parsed(peer)
        if address is None or not self._trusts(address):
            return peer if address is None else str(address)
        entries = b",".join(forwarded_for).decode("latin-1").rsplit(",", HOPS)[-HOPS:] if forwarded_for else []
        for entry in reversed(entries):
            before = parsed(entry.strip())
            if before is None:
                break
            address = before
            if not self._trusts(address):
                break
        return str(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without port and brackets; None: it is none. An IPv4 one in IPv6's clothes is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
