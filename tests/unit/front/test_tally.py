"""Requests are counted once each, in one of four ways."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from runner_supervisor.front.audit import ABANDONED, ANSWERED, BROKEN, refused
from runner_supervisor.front.figures import Figures
from runner_supervisor.front.metrics.requests import Tally, bucket, cause

NONE = Figures()
SPENT = Figures(10, 4, 5)


def end(
    tally: Tally,
    status: int = 200,
    outcome: str = ANSWERED,
    *,
    cost: Figures = NONE,
    first_s: float = 0.0,
    key: str = "",
) -> None:
    tally.ended("m", "/p", status, outcome, key=key, cost=cost, began_s=100.0, first_s=first_s, now_s=102.0)


def samples(tally: Tally) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(tally)  # type: ignore[arg-type]
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("status", "outcome", "into", "why"),
    [
        (200, ANSWERED, "ok", None),
        (204, refused("preflight"), "ok", None),
        (400, ANSWERED, "error", "engine_4xx"),
        (500, ANSWERED, "error", "engine_5xx"),
        (200, BROKEN, "error", "broken"),
        (502, refused("engine_failed"), "error", "engine_failed"),
        (422, refused("poison_request"), "error", "poison_request"),
        (429, refused("queue_full"), "refused", "queue_full"),
        (401, refused("invalid_api_key"), "refused", "invalid_api_key"),
        (200, ABANDONED, "cancelled", None),
        (0, ABANDONED, "cancelled", None),
    ],
)
def test_each_request_ends_in_one_way_and_an_error_has_a_cause(
    status: int, outcome: str, into: str, why: str | None
) -> None:
    assert (bucket(status, outcome), cause(status, outcome)) == (into, why)


def test_requests_are_told_apart_by_the_class_of_their_status() -> None:
    tally = Tally()
    for status in (200, 201, 404):
        end(tally, status)
    end(tally, 0, ABANDONED)
    now = samples(tally)
    assert now["runner_requests_total['/p', '2xx', 'm', 'ok']"] == 2
    assert now["runner_requests_total['/p', '4xx', 'error', 'm']"] == 1
    assert now["runner_requests_total['/p', 'cancelled', 'm', 'none']"] == 1
    assert now["runner_request_errors_total['engine_4xx']"] == 1


def test_a_stream_has_a_first_token_and_a_pace() -> None:
    tally = Tally()
    end(tally, cost=SPENT, first_s=100.5)
    now = samples(tally)
    assert now["runner_time_to_first_token_seconds_sum['/p', 'm']"] == 0.5
    assert now["runner_time_per_output_token_seconds_sum['/p', 'm']"] == 1.5 / 4
    assert now["runner_request_duration_seconds_bucket['/p', '2.5', 'm']"] == 1
    assert now["runner_request_duration_seconds_bucket['/p', '1.0', 'm']"] == 0


def test_an_answer_that_is_no_stream_or_not_whole_has_no_pace() -> None:
    tally = Tally()
    end(tally, cost=SPENT)
    end(tally, 200, ABANDONED, cost=SPENT, first_s=100.5)
    now = samples(tally)
    assert now["runner_time_to_first_token_seconds_count['/p', 'm']"] == 1
    assert now["runner_time_per_output_token_seconds_count['/p', 'm']"] == 0
    assert now["runner_request_duration_seconds_count['/p', 'm']"] == 1


def test_tokens_that_the_engine_counted_are_kept_apart_from_estimates() -> None:
    tally = Tally()
    end(tally, cost=SPENT)
    end(tally, 200, ABANDONED, cost=Figures(1, 0, 7, estimated=True))
    now = samples(tally)
    assert now["runner_prompt_tokens_total['/p', 'engine', 'm']"] == 10
    assert now["runner_cached_tokens_total['/p', 'engine', 'm']"] == 4
    assert now["runner_generated_tokens_total['/p', 'engine', 'm']"] == 5
    assert now["runner_generated_tokens_total['/p', 'estimate', 'm']"] == 7


def test_keys_are_told_apart_only_when_that_was_asked_for() -> None:
    tally = Tally()
    end(tally, key="k1")
    assert not any("k1" in name for name in samples(tally))
    tally.by_key = True
    end(tally, key="k1", cost=SPENT)
    now = samples(tally)
    assert now["runner_key_requests_total['k1', 'ok']"] == 1
    assert now["runner_key_tokens_total['generated', 'k1']"] == 5
