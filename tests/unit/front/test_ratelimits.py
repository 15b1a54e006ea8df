"""Limits as clients are told of them."""

from __future__ import annotations

import pytest

from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Left, Limit, Limits, Quota, Verdict
from runner_supervisor.front.ratelimits import duration, header_lines, refusal

PRINCIPAL = Principal(Share("a"), "a", limits=Limits(Quota(60, 60.0), Quota(1_000_000, 86_400.0), 4))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (3600, "1h0m0s"), (86_399.5, "24h0m0s")],
)
def test_durations_as_openai_writes_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_headers_that_openai_names() -> None:
    verdict = Verdict(requests=Left(60, 59, 1.0), tokens=Left(1_000_000, 5, 0.5))
    assert header_lines(verdict) == [
        b"x-ratelimit-limit-requests: 60",
        b"x-ratelimit-remaining-requests: 59",
        b"x-ratelimit-reset-requests: 1s",
        b"x-ratelimit-limit-tokens: 1000000",
        b"x-ratelimit-remaining-tokens: 5",
        b"x-ratelimit-reset-tokens: 500ms",
    ]


@pytest.mark.parametrize(
    ("limit", "code", "said"),
    [
        (Limit.REQUESTS, "rate_limit_requests", "60 in 1m0s"),
        (Limit.TOKENS, "rate_limit_tokens", "1000000 in 24h0m0s"),
        (Limit.CONCURRENT, "rate_limit_concurrent", "(4)"),
    ],
)
def test_a_refusal_says_which_limit_and_when_to_come_back(limit: Limit, code: str, said: str) -> None:
    found = refusal(Verdict(exceeded=limit, retry_after_s=2.1), PRINCIPAL)
    assert found is not None
    assert (found.status, found.code, found.retry_after_s) == (429, code, 3)
    assert said in found.message


def test_nothing_exceeded_is_no_refusal() -> None:
    assert refusal(Verdict(), PRINCIPAL) is None
