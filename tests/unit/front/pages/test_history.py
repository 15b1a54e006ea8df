"""What a page that has just been opened draws."""

from __future__ import annotations

import pytest

from runner_supervisor.front.pages.history import FirstTokens, History, Sample, quantile


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


@pytest.mark.parametrize(
    ("share", "least"), [(0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4), (0.0, 1)]
)  # of four values, those that are at least as large
def test_a_quantile_is_a_value_that_was_seen(share: float, least: int) -> None:
    assert quantile([0.001, 0.002, 0.003, 0.004], share) == least


def test_first_tokens_are_those_of_the_last_minute() -> None:
    tokens = FirstTokens()
    tokens.add(at_s=0, took_s=9)
    tokens.add(at_s=50, took_s=0.1)
    assert tokens.quantiles_ms(now_s=60) == (100, 9000)
    assert tokens.quantiles_ms(now_s=61) == (100, 100)
    assert tokens.quantiles_ms(now_s=111) == (None, None)
