"""How limits are told to clients: 429 in OpenAI's shape, and its x-ratelimit headers."""

from __future__ import annotations

import math
from typing import Final

from runner_supervisor.core.access import Principal
from runner_supervisor.core.quota import Left, Limit, Quota, Verdict
from runner_supervisor.front.replies import Refusal

MESSAGES: Final = {
    Limit.REQUESTS: "This key has used up its requests ({}).",
    Limit.TOKENS: "This key has used up its tokens ({}).",
    Limit.CONCURRENT: "This key has as many requests at work as it may have at once ({}).",
}


def refusal(verdict: Verdict, principal: Principal) -> Refusal | None:
    """The answer to a request that ran into a limit; None: it may go ahead."""
    limit = verdict.exceeded
    if limit is None:
        return None
    quota = getattr(principal.limits, limit.value)
    return Refusal(
        429,
        f"rate_limit_{limit}",
        MESSAGES[limit].format(_shown(quota)),
        retry_after_s=max(1, math.ceil(verdict.retry_after_s)),
    )


def header_lines(verdict: Verdict) -> list[bytes]:
    """What is left, as OpenAI's API says it: x-ratelimit-limit-requests and the like."""
    lines = []
    for name, left in (("requests", verdict.requests), ("tokens", verdict.tokens)):
        if left is not None:
            lines += _lines(name, left)
    return lines


def _lines(name: str, left: Left) -> list[bytes]:
    values = {"limit": left.limit, "remaining": left.remaining, "reset": duration(left.reset_s)}
    return [f"x-ratelimit-{what}-{name}: {value}".encode() for what, value in values.items()]


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers have it: 20ms, 1s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _shown(quota: Quota | int) -> str:
    return str(quota) if isinstance(quota, int) else f"{quota.amount} in {duration(quota.period_s)}"
