"""Who is let in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runner_supervisor.front.gate import ANYONE, Gate
from runner_supervisor.keys.store import KeyStore


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path / "keys.sqlite", given=["secret"])) as store:
        yield store


@pytest.mark.parametrize(
    ("authorization", "api_key", "admitted"),
    [
        (b"Bearer secret", None, True),
        (b"bearer  secret ", None, True),
        (b"secret", None, True),
        (None, b"secret", True),
        (None, None, False),
        (b"", None, False),
        (b"Bearer ", None, False),
        (b"Bearer wrong", b"secret", False),
        (b"Basic secret", None, False),
        (None, b"SECRET", False),
    ],
)
def test_with_keys(keys: KeyStore, authorization: bytes | None, api_key: bytes | None, admitted: bool) -> None:
    gate = Gate(keys, open_=True)
    assert (gate.admit(authorization, api_key) not in {None, ANYONE}) is admitted


def test_open_without_keys_on_loopback_alone(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as none:
        assert Gate(none, open_=True).admit(None, None) == ANYONE
        assert Gate(none, open_=False).admit(None, None) is None
