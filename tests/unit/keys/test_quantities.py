"""Amounts and times as people write them."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.core.quota import Quota
from runner_supervisor.errors import ConfigError
from runner_supervisor.keys.quantities import (
    LONGEST_S,
    MOST,
    parse_duration,
    parse_expiry,
    parse_quota,
    show_duration,
    show_quota,
)

NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "amount", "period_s"),
    [
        ("60/min", 60, 60),
        ("1M/day", 1_000_000, 86_400),
        ("4k/h", 4000, 3600),
        ("10/s", 10, 1),
        ("1/second", 1, 1),
        ("5 / minute", 5, 60),
        ("7/hour", 7, 3600),
        ("2G/week", 2_000_000_000, 604_800),
        ("1.5M/day", 1_500_000, 86_400),
        ("100/15min", 100, 900),
    ],
)
def test_an_amount_in_a_time_is_understood(text: str, amount: int, period_s: float) -> None:
    assert parse_quota(text) == Quota(amount, period_s)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60",
        "/min",
        "60/",
        "0/min",
        "60/0min",
        "-1/min",
        "1.5/s",
        "1m/day",
        "60/month",
        "6O/min",
        "1/1/s",
        "٣/min",
        f"{MOST + 1}/s",
        "1/101000d",
        "9" * 5000 + "/s",
        "1e3/s",
        "nan/s",
    ],
)
def test_what_is_no_amount_in_a_time_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="is no amount in a time; write one like 60/min, 4k/h or 1M/day"):
        parse_quota(text)


@given(st.integers(1, MOST), st.integers(1, LONGEST_S))
def test_an_amount_in_a_time_reads_back_as_it_was_shown(amount: int, period_s: int) -> None:
    quota = Quota(amount, float(period_s))
    assert parse_quota(show_quota(quota)) == quota


@pytest.mark.parametrize("text", ["60/min", "1M/day", "4k/h", "10/s", "1500/h", "1500k/2day", "1/90s"])
def test_an_amount_in_a_time_is_shown_as_people_write_it(text: str) -> None:
    assert show_quota(parse_quota(text)) == text


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("90d", 7_776_000),
        ("12h", 43_200),
        ("30m", 1800),
        ("2w", 1_209_600),
        ("45s", 45),
        ("0s", 0),
        ("1 day", 86_400),
    ],
)
def test_a_time_is_understood(text: str, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "1y", "1000000w", "9" * 5000 + "s", "1h30m"])
def test_what_is_no_time_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time; write one like 90d, 12h, 30m, 45s or 2w"):
        parse_duration(text)


@given(st.integers(0, LONGEST_S))
def test_a_time_reads_back_as_it_was_shown(duration_s: int) -> None:
    assert parse_duration(show_duration(duration_s)) == duration_s


def test_an_end_is_a_time_from_now_or_a_date() -> None:
    assert parse_expiry("90d", now_s=NOW_S) == NOW_S + 90 * 86_400
    assert parse_expiry("2030-12-31T18:00+01:00", now_s=NOW_S) == 1_924_966_800
    midnight = datetime(2030, 12, 31).astimezone().timestamp()
    assert parse_expiry("2030-12-31", now_s=NOW_S) == midnight


@pytest.mark.parametrize("text", ["0d", "2020-01-01", "1969-12-31"])
def test_an_end_that_has_passed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="has passed already; write a time to come"):
        parse_expiry(text, now_s=NOW_S)


@pytest.mark.parametrize("text", ["", "soon", "2030-13-01", "0001-01-01T00:00+14:00", "90"])
def test_what_is_no_end_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no time; write one like 90d, 12h or 2w, or a date|has passed"):
        parse_expiry(text, now_s=NOW_S)
