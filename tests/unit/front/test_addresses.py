"""Whose word is taken for where a request comes from."""

from __future__ import annotations

import pytest

from runner_supervisor.front.addresses import HOPS, Proxies

TRUSTED = Proxies(("10.0.0.0/8", "::1", "192.0.2.7"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.5", [b"8.8.8.8"], "203.0.113.5"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", [b"8.8.8.8"], "8.8.8.8"),
        ("10.1.2.3", [b"1.1.1.1, 8.8.8.8"], "8.8.8.8"),
        ("10.1.2.3", [b"1.1.1.1, 8.8.8.8, 10.9.9.9, 192.0.2.7"], "8.8.8.8"),
        ("10.1.2.3", [b"1.1.1.1", b"8.8.8.8"], "8.8.8.8"),
        ("10.1.2.3", [b"10.4.4.4, 10.5.5.5"], "10.4.4.4"),
        ("10.1.2.3", [b"8.8.8.8:443"], "8.8.8.8"),
        ("10.1.2.3", [b"[2001:db8::1]:443"], "2001:db8::1"),
        ("10.1.2.3", [b"2001:db8::1"], "2001:db8::1"),
        ("10.1.2.3", [b"8.8.8.8, unknown"], "10.1.2.3"),
        ("10.1.2.3", [b"8.8.8.8, unknown, 10.5.5.5"], "10.5.5.5"),
        ("10.1.2.3", [b"\xff\xfe, <script>"], "10.1.2.3"),
        ("10.1.2.3", [b""], "10.1.2.3"),
        ("::1", [b"8.8.8.8"], "8.8.8.8"),
        ("::ffff:10.1.2.3", [b"8.8.8.8"], "8.8.8.8"),
        ("local", [b"8.8.8.8"], "local"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(peer: str, forwarded: list[bytes], client: str) -> None:
    assert TRUSTED.client(peer, forwarded) == client


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert Proxies(()).client("127.0.0.1", [b"8.8.8.8"]) == "127.0.0.1"


def test_only_the_last_entries_are_looked_at() -> None:
    long = b", ".join([b"8.8.8.8", *[b"10.0.0.1"] * (HOPS + 5)])
    assert TRUSTED.client("10.1.2.3", [long]) == "10.0.0.1"
