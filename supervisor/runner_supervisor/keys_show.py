"""What the `keys` commands print."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from runner_supervisor import show
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.keys.key import Issued, Key
from runner_supervisor.keys.limits import Count
from runner_supervisor.keys.quantities import show_quota

Days = list[tuple[int, Count]]
"""What a key has used, by day since the epoch, the oldest first."""

EPOCH = date(1970, 1, 1)
DAYS_SHOWN = 7

HEADS = ["NAME", "ID", "STATE", "SCOPES", "MODELS", "LIMITS", "CREATED", "EXPIRES"]


def say(line: str) -> None:
    """A line for people, on stderr: stdout is for what was asked for."""
    show.err.print(line, highlight=False, markup=False)


def as_json(value: object) -> None:
    """JSON, on stdout."""
    show.out.print_json(json.dumps(value))


def listing(keys: list[Key], *, now_s: float) -> None:
    """Keys, one a line."""
    if keys:
        show.table(HEADS, [_line(key, now_s=now_s) for key in keys])


def details(key: Key, used: Days, *, now_s: float) -> None:
    """All that is known of one key, and what it has used."""
    rows = [
        *zip([head.lower() for head in HEADS], _line(key, now_s=now_s), strict=True),
        ("weight", f"{key.weight:g}"),
        ("priority", str(key.priority)),
    ]
    if key.revoked_s is not None:
        rows.append(("revoked", moment(key.revoked_s)))
    for number, secret in enumerate(key.secrets):
        ends = f", ends {moment(secret.expires_s)}" if secret.expires_s is not None else ""
        rows.append(("secrets" if number == 0 else "", f"made {moment(secret.created_s)}{ends}"))
    for number, (day, count) in enumerate(used[-DAYS_SHOWN:]):
        tokens = f"{count.prompt_tokens:,} prompt and {count.generated_tokens:,} generated tokens"
        rows.append(("used" if number == 0 else "", f"{date_of(day)}: {count.requests:,} requests, {tokens}"))
    show.pairs(rows)


def issued(new: Issued, *, said: str, in_json: bool, now_s: float) -> None:
    """A new secret, alone on stdout, so that a script can take it; on stderr what else is to be said."""
    say(f"{said}; shown this once: only its hash is kept")
    if in_json:
        as_json({"key": described(new.key, now_s=now_s), "secret": new.secret})
    else:
        show.out.print(new.secret, highlight=False, markup=False)


def described(key: Key, *, now_s: float) -> dict[str, Any]:
    """A key as JSON has it. Times in seconds since the epoch."""
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(now_s),
        "scopes": sorted(key.scopes),
        "models": list(key.models),
        "rate": _quota(key.limits.requests),
        "tokens": _quota(key.limits.tokens),
        "concurrent": key.limits.concurrent,
        "weight": key.weight,
        "priority": key.priority,
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "revoked_s": key.revoked_s,
        "secrets": [{"created_s": secret.created_s, "expires_s": secret.expires_s} for secret in key.secrets],
    }


def used_by_day(used: Days) -> list[dict[str, Any]]:
    """What a key has used as JSON has it. Days are UTC's."""
    return [{"day": date_of(day)} | asdict(count) for day, count in used]


def date_of(day: int) -> str:
    """A day, counted from the epoch, as a date."""
    return str(EPOCH + timedelta(days=day))


def moment(time_s: float) -> str:
    """A time, in seconds since the epoch, as this machine's clock on the wall has it."""
    return datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _line(key: Key, *, now_s: float) -> list[str]:
    return [
        key.name,
        key.id,
        key.state(now_s),
        ", ".join(sorted(key.scopes)),
        ", ".join(key.models) or "any",
        _limits(key.limits),
        moment(key.created_s),
        moment(key.expires_s) if key.expires_s is not None else "never",
    ]


def _limits(limits: Limits) -> str:
    parts = [
        f"{show_quota(limits.requests)} requests" if limits.requests else "",
        f"{show_quota(limits.tokens)} tokens" if limits.tokens else "",
        f"{limits.concurrent} at once" if limits.concurrent else "",
    ]
    return ", ".join(part for part in parts if part) or "none"


def _quota(quota: Quota | None) -> str | None:
    return show_quota(quota) if quota else None
