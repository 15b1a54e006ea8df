"""Which hosts are answered to, so that no page of the web passes for one of ours."""

from __future__ import annotations

import pytest

from runner_supervisor.front.hosts import REMEMBERED, Hosts

LOOPBACK = Hosts((), loopback=True)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost", b"LOCALHOST:8080", b"localhost.", b"app.localhost:80", b"127.0.0.1:1", b"127.1.2.3",
        b"[::1]:80", b"[::1]",
    ],
)  # fmt: skip
def test_loopback_names_and_addresses_are_answered_to(host: bytes) -> None:
    assert not LOOPBACK.refuses(host, None)


@pytest.mark.parametrize(
    "host",
    [
        None, b"", b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"10.0.0.1", b"0.0.0.0",
        b"2130706433", b"0x7f.1", b"localhost@evil.example", b"localhost,evil.example", b"localhost localhost",
        b"localhost:80:80", b"localhost:123456", b"[::1", b"::1", b"[::2]", b"localhost/x", b"localhost\0",
        b"xlocalhost", b"\xff", b"a" * 10_000,
    ],
)  # fmt: skip
def test_all_else_is_refused_on_loopback(host: bytes | None) -> None:
    assert LOOPBACK.refuses(host, None)


@pytest.mark.parametrize(("host", "authority"), [(b"localhost", b"evil.example"), (b"evil.example", b"localhost")])
def test_a_target_that_names_a_host_must_name_ours_too(host: bytes, authority: bytes) -> None:
    assert LOOPBACK.refuses(host, authority)


def test_named_hosts_are_answered_to_beside_loopback() -> None:
    hosts = Hosts(("llm.example:8080", "*.lan.example"), loopback=True)
    for host in (b"llm.example", b"LLM.example:443", b"a.lan.example", b"a.b.lan.example", b"localhost"):
        assert not hosts.refuses(host, None)
    for host in (b"lan.example", b"xlan.example", b"x.llm.example"):
        assert hosts.refuses(host, None)


def test_on_other_addresses_any_host_is_answered_to_unless_some_are_named() -> None:
    assert not Hosts((), loopback=False).refuses(b"any.example", None)
    assert not Hosts((), loopback=False).refuses(None, None)
    named = Hosts(("llm.example",), loopback=False)
    assert named.refuses(b"any.example", None)
    assert not named.refuses(b"llm.example", None)
    assert not named.refuses(b"127.0.0.1", None)


def test_what_is_remembered_is_bounded_and_right() -> None:
    hosts = Hosts((), loopback=True)
    for number in range(3 * REMEMBERED):
        assert hosts.refuses(b"h%d.example" % number, None)
        assert not hosts.refuses(b"h%d.localhost" % number, None)
    assert len(hosts._known) <= REMEMBERED
