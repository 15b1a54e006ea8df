"""How fast tokens come, and how long the first ones take."""

from __future__ import annotations

import pytest

from runner_supervisor.front.pages.meter import FirstTokens, quantile_ms


@pytest.mark.parametrize(
    ("share", "least"), [(0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4), (0.0, 1)]
)  # of four values, those that are at least as large
def test_a_quantile_is_a_value_that_was_seen(share: float, least: int) -> None:
    assert quantile_ms([0.001, 0.002, 0.003, 0.004], share) == least


def test_first_tokens_are_those_of_the_last_minute() -> None:
    tokens = FirstTokens()
    tokens.add(at_s=0, took_s=9)
    tokens.add(at_s=50, took_s=0.1)
    assert tokens.quantiles_ms(now_s=60) == (100, 9000)
    assert tokens.quantiles_ms(now_s=61) == (100, 100)
    assert tokens.quantiles_ms(now_s=111) == (None, None)
