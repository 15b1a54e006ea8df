"""Rates and times as people write them: "60/min", "1M/day", "90d". Each is shown so that it reads back the same."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

from runner_supervisor.core.quota import Quota
from runner_supervisor.errors import ConfigError

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

_UNITS_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), MINUTE_S),
    **dict.fromkeys(("h", "hour", "hours"), HOUR_S),
    **dict.fromkeys(("d", "day", "days"), DAY_S),
    **dict.fromkeys(("w", "week", "weeks"), 7 * DAY_S),
}
_FACTORS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}
_AMOUNT = re.compile(r"(\d{1,16}(?:\.\d{1,9})?)([kMG]?)", re.ASCII)
_TIME = re.compile(r"(\d{1,16})\s*([a-z]+)", re.ASCII)

MOST = 1000**5
"""More than this is refused, whatever it counts: SQLite's integers and the calendar end somewhere."""

LONGEST_S = 100 * 365 * DAY_S


def parse_quota(text: str) -> Quota:
    """Read an amount in a time: `60/min`, `4k/h`, `1.5M/day`, `100/15min`.

    Raises:
        ConfigError: it is none; the message says what to write.
    """
    amount, slash, period = (part.strip() for part in text.partition("/"))
    whole = _amount(amount)
    period_s = _seconds(period if period[:1].isdigit() else f"1{period}")
    if not slash or not whole or not period_s:
        raise ConfigError(
            f"{text!r} is no amount in a time; write one like 60/min, 4k/h or 1M/day "
            "(k, M, G; s, min, h, day, week), at least 1"
        )
    return Quota(amount=whole, period_s=float(period_s))


def show_quota(quota: Quota) -> str:
    """Write a quota whose period is whole seconds as `parse_quota` reads it."""
    count, unit = _in_units(int(quota.period_s), {"day": DAY_S, "h": HOUR_S, "min": MINUTE_S, "s": 1})
    return f"{show_amount(quota.amount)}/{'' if count == 1 else count}{unit}"


def show_amount(amount: int) -> str:
    """Write a number with k, M or G where nothing is lost by it."""
    factor = next(suffix for suffix in ("G", "M", "k", "") if amount % _FACTORS[suffix] == 0)
    return f"{amount // _FACTORS[factor]}{factor}" if amount else "0"


def parse_duration(text: str) -> float:
    """Read a time, in seconds: `90d`, `12h`, `30m`, `45s`, `2w`.

    Raises:
        ConfigError: it is none; the message says what to write.
    """
    duration_s = _seconds(text.strip())
    if duration_s is None:
        raise ConfigError(f"{text!r} is no time; write one like 90d, 12h, 30m, 45s or 2w, at most 100 years")
    return float(duration_s)


def show_duration(duration_s: float) -> str:
    """Write a time of whole seconds as `parse_duration` reads it."""
    count, unit = _in_units(int(duration_s), {"d": DAY_S, "h": HOUR_S, "m": MINUTE_S, "s": 1})
    return f"{count}{unit}"


def parse_expiry(text: str, *, now_s: float) -> float:
    """Read when something ends, in seconds since the epoch.

    Args:
        text: how long from now, as for `parse_duration`, or a date, `2030-12-31` or `2030-12-31T18:00+01:00`; of
            this machine's time zone if it names none.
        now_s: seconds since the epoch.

    Raises:
        ConfigError: it is neither, or has passed.
    """
    duration_s = _seconds(text.strip())
    if duration_s is not None:
        ends_s = now_s + duration_s
    else:
        try:
            ends_s = datetime.fromisoformat(text.strip()).astimezone().timestamp()
        except (ValueError, OverflowError):
            raise ConfigError(
                f"{text!r} is no time; write one like 90d, 12h or 2w, or a date like 2030-12-31"
            ) from None
    if ends_s <= now_s:
        raise ConfigError(f"{text!r} has passed already; write a time to come, like 90d or 2030-12-31")
    return ends_s


def _amount(text: str) -> int | None:
    """A whole number up to MOST, None if it is none."""
    found = _AMOUNT.fullmatch(text)
    if not found:
        return None
    amount = Decimal(found[1]) * _FACTORS[found[2]]
    return int(amount) if amount == int(amount) and amount <= MOST else None


def _seconds(text: str) -> int | None:
    """A time in whole seconds up to LONGEST_S, None if it is none."""
    found = _TIME.fullmatch(text)
    if not found or found[2] not in _UNITS_S:
        return None
    duration_s = int(found[1]) * _UNITS_S[found[2]]
    return duration_s if duration_s <= LONGEST_S else None


def _in_units(whole_s: int, units_s: dict[str, int]) -> tuple[int, str]:
    """How many of the largest unit that it is a multiple of; `units_s`: largest first, down to seconds."""
    unit = next(name for name, unit_s in units_s.items() if unit_s == 1 or (whole_s and whole_s % unit_s == 0))
    return whole_s // units_s[unit], unit
