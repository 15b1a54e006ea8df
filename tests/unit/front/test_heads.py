"""What a head means, and what of it belongs to whom."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from runner_supervisor.core.access import Scope
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.heads import (
    REMEMBERED,
    REMEMBERED_BYTES,
    Heads,
    Reading,
    authority_of,
    control_route,
    joined,
    origin_form,
)
from runner_supervisor.front.refrain import Refrain, refrain_of
from runner_supervisor.front.replies import INVALID_KEY
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.settings import Settings


@pytest.mark.parametrize(
    "target",
    [
        b"/health",
        b"/health/live",
        b"/health?x=1",
        b"/metrics",
        b"/admin",
        b"/admin/",
        b"/admin/a/b",
        b"/",
        b"/?a",
        b"/dashboard",
        b"/dashboard/a.js",
        b"/playground",
    ],
)
def test_fastapis_own(target: bytes) -> None:
    assert control_route(target)


@pytest.mark.parametrize(
    "target",
    [
        b"/index.html",
        b"/healthz",
        b"/v1/health",
        b"/metricsx/y",
        b"/administrator",
        b"//admin",
        b"/x?y=/admin",
        b"/v1/models",
    ],
)
def test_the_engines(target: bytes) -> None:
    assert not control_route(target)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b=c", b"/a?b=c"),
        (b"http://host:1/a?b=c", b"/a?b=c"),
        (b"http://host/admin/stop", b"/admin/stop"),
        (b"http://host", b"/"),
    ],
)
def test_targets_become_paths(target: bytes, path: bytes) -> None:
    assert origin_form(target) == path


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (b"/a?b=http://c", None),
        (b"http://host:1/a", b"host:1"),
        (b"http://user@host/a", b"user@host"),
        (b"http://[::1/a", b""),
    ],
)
def test_the_host_that_a_target_names_itself(target: bytes, authority: bytes | None) -> None:
    assert authority_of(target) == authority


def test_a_header_that_comes_twice_has_both_values() -> None:
    assert joined([(b"host", b"a"), (b"x", b"1"), (b"host", b"b")]) == {b"host": b"a, b", b"x": b"1"}


class Parser:
    """Stands at the end of a POST's head."""

    def get_method(self) -> bytes:
        return b"POST"

    def get_http_version(self) -> str:
        return "1.1"

    def should_keep_alive(self) -> bool:
        return True


def test_a_head_repeated_is_read_once_until_the_keys_change(tmp_path: Path) -> None:
    def read(secret: str) -> Reading:
        headers = [(b"host", b"localhost"), (b"x-api-key", secret.encode())]
        return heads.read(cast("Any", Parser()), b"/tokenize", headers, trusted=False)

    with closing(KeyStore(tmp_path / "keys.sqlite", given=["one"])) as keys:
        heads = Heads(Gate(keys, Settings()))
        first = read("one")
        assert read("one") is first
        assert first.reply is None
        assert read("two").reply is INVALID_KEY
        new = keys.create("new", scopes=[Scope.INFERENCE]).secret
        assert read("one") is not first
        assert read(new).reply is None


def test_what_is_remembered_of_heads_is_bounded(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as keys:
        heads = Heads(Gate(keys, Settings(open_paths=("/x",))))
        for number in range(3 * REMEMBERED):
            heads.read(
                cast("Any", Parser()), b"/x", [(b"host", b"localhost"), (b"number", b"%d" % number)], trusted=False
            )
            heads.read(
                cast("Any", Parser()),
                b"/" + bytes(REMEMBERED_BYTES),
                [(b"host", b"localhost"), (b"n", b"%d" % number)],
                trusted=False,
            )
            assert 0 < len(heads._remembered) <= REMEMBERED


def test_heads_that_recur_are_known_by_their_bytes_to_those_who_may_come_in_like_that_until_the_keys_change(
    tmp_path: Path,
) -> None:
    data = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
    refrain = refrain_of(data % (2, b""))
    assert refrain
    with closing(KeyStore(tmp_path / "keys.sqlite")) as keys:
        heads = Heads(Gate(keys, Settings()))
        reading = heads.read(cast("Any", Parser()), b"/tokenize", [(b"host", b"localhost")], trusted=True)
        heads.learn(refrain, reading, trusted=True)
        assert heads.recall(data % (17, b'{"a'), trusted=True) == (refrain, reading, len(data % (17, b"")), 17)
        assert heads.recall((data % (17, b""))[:-1], trusted=True) is None
        assert heads.recall(data.replace(b"host", b"Host") % (2, b"{}"), trusted=True) is None
        assert heads.recall(data % (2, b"{}"), trusted=False) is None
        keys.create("new", scopes=[Scope.INFERENCE])
        assert heads.recall(data % (2, b"{}"), trusted=True) is None


def test_how_many_heads_are_known_by_their_bytes_is_bounded(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as keys:
        heads = Heads(Gate(keys, Settings()))
        reading = heads.read(cast("Any", Parser()), b"/tokenize", [(b"host", b"localhost")], trusted=False)
        for number in range(3 * REMEMBERED):
            heads.learn(Refrain(b"%d" % number, b""), reading, trusted=False)
            heads.learn(Refrain(b"%d" % number, bytes(REMEMBERED_BYTES)), reading, trusted=False)
            assert 0 < len(heads._recurring) <= REMEMBERED
