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
    is_control,
    is_local,
    origin_form,
)
from runner_supervisor.front.replies import INVALID_KEY
from runner_supervisor.keys.store import KeyStore


@pytest.mark.parametrize(
    "target", [b"/health", b"/health/live", b"/health?x=1", b"/metrics", b"/admin", b"/admin/", b"/admin/a/b"]
)
def test_fastapis_own(target: bytes) -> None:
    assert is_control(target)


@pytest.mark.parametrize(
    "target",
    [b"/", b"/healthz", b"/v1/health", b"/metricsx/y", b"/administrator", b"//admin", b"/x?y=/admin", b"/v1/models"],
)
def test_the_engines(target: bytes) -> None:
    assert not is_control(target)


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        (b"http://localhost:3000", True),
        (b"https://127.0.0.1", True),
        (b"http://[::1]:8080", True),
        (b"https://evil.example", False),
        (b"http://localhost.evil.example", False),
        (b"null", False),
        (b"", False),
    ],
)
def test_origins_of_this_machine(origin: bytes, local: bool) -> None:
    assert is_local(origin) is local


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
        reading = heads.read(cast("Any", Parser()), b"/props", [(b"x-api-key", secret.encode())], trusted=False)
        assert reading
        return reading

    with closing(KeyStore(tmp_path / "keys.sqlite", given=["one"])) as keys:
        heads = Heads(Gate(keys, open_=False))
        first = read("one")
        assert read("one") is first
        assert first.refusal is None
        assert read("two").refusal is INVALID_KEY
        new = keys.create("new", scopes=[Scope.INFERENCE]).secret
        assert read("one") is not first
        assert read(new).refusal is None


def test_what_is_remembered_of_heads_is_bounded(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as keys:
        heads = Heads(Gate(keys, open_=True))
        for number in range(3 * REMEMBERED):
            heads.read(cast("Any", Parser()), b"/x", [(b"number", b"%d" % number)], trusted=False)
            heads.read(cast("Any", Parser()), b"/" + bytes(REMEMBERED_BYTES), [(b"n", b"%d" % number)], trusted=False)
            assert len(heads._remembered) <= REMEMBERED
