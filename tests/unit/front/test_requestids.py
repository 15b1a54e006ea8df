"""Request ids: our own, and those that clients bring."""

from __future__ import annotations

import pytest

from runner_supervisor.front.requestids import RequestIds, accept


def test_ids_of_ours_are_different_and_fit_where_a_clients_fit() -> None:
    first, second = RequestIds(), RequestIds()
    ids = [maker.next() for maker in (first, second) for _ in range(1_000)]
    assert len(set(ids)) == 2_000
    assert {len(id_) for id_ in ids} == {24}
    assert [accept(id_) for id_ in ids] == ids


@pytest.mark.parametrize("value", [b"a", b"Trace-1:2.3_4", b"x" * 128])
def test_a_clients_id_is_taken(value: bytes) -> None:
    assert accept(value) == value


@pytest.mark.parametrize(
    "value",
    [None, b"", b"x" * 129, b"a b", b"a\n", b"a\r\nSet-Cookie: x", b'a"', b"\xff", b"\x1b[31m", b"{}", b"a/b"],
)
def test_an_id_that_could_do_harm_where_it_is_written_is_not(value: bytes | None) -> None:
    assert accept(value) is None
