"""What a page that has just been opened draws."""

from __future__ import annotations

from runner_supervisor.front.pages.history import History, Sample


def sample(at: float) -> Sample:
    return Sample(at=at, tokens_per_s=at * 2, ttft_p50_ms=None, ttft_p95_ms=None, in_flight=1, queued=0)


def test_history_is_a_list_for_each_field_oldest_first() -> None:
    history = History()
    history.add(sample(1))
    history.add(sample(2))
    assert history.columns() == [[1, 2], [2, 4], [None, None], [None, None], [1, 1], [0, 0]]


def test_an_empty_history_has_every_field() -> None:
    assert History().columns() == [[], [], [], [], [], []]


def test_history_lets_go_of_the_oldest() -> None:
    history = History(most=3)
    for at in range(10):
        history.add(sample(at))
    assert history.columns()[0] == [7, 8, 9]
