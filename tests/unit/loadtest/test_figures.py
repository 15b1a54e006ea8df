"""What the outcomes of a step say."""

from __future__ import annotations

import pytest

from runner_supervisor.loadtest.figures import Answer, Failure, Outcome, summary


def answer(ttft_s: float, took_s: float, generated_tokens: int = 11) -> Answer:
    return Answer(ttft_s, took_s, prompt_tokens=20, cached_tokens=5, generated_tokens=generated_tokens)


def test_a_step_is_summed_up() -> None:
    step = summary([answer(0.1, 1.1), answer(0.3, 2.3), answer(0.2, 1.2)], concurrency=2, elapsed_s=4.0)
    assert (step.requests, step.answers, step.errors) == (3, 3, {})
    assert step.requests_per_s == 0.75
    assert step.tokens_per_s == 8.2
    assert (step.ttft_p50_ms, step.ttft_p95_ms) == (200.0, 300.0)
    assert (step.per_token_p50_ms, step.per_token_p95_ms) == (100.0, 200.0)
    assert step.stream_tokens_per_s == 10.0
    assert (step.prompt_tokens, step.cached_tokens, step.generated_tokens) == (60, 15, 33)


def test_failures_are_counted_by_cause_and_nowhere_else() -> None:
    outcomes: list[Outcome] = [Failure("429 rate_limited", "slow"), answer(0.1, 1.1), Failure("timeout", "late")]
    step = summary([*outcomes, Failure("timeout", "late")], concurrency=1, elapsed_s=1.0)
    assert (step.requests, step.answers) == (4, 1)
    assert list(step.errors.items()) == [("timeout", 2), ("429 rate_limited", 1)]
    assert step.requests_per_s == 1.0


def test_a_step_without_an_answer_has_no_times() -> None:
    step = summary([Failure("timeout", "late")], concurrency=1, elapsed_s=1.0)
    assert step.ttft_p50_ms is step.per_token_p50_ms is step.stream_tokens_per_s is None
    assert step.tokens_per_s == 0.0


def test_an_answer_of_one_token_says_nothing_of_the_pace() -> None:
    step = summary([answer(0.1, 0.1, generated_tokens=1)], concurrency=1, elapsed_s=1.0)
    assert step.ttft_p50_ms == 100.0
    assert step.per_token_p50_ms is None


def test_times_are_kept_to_the_microsecond() -> None:
    step = summary([answer(0.000_25, 0.004_13)], concurrency=1, elapsed_s=1.0)
    assert step.per_token_p50_ms == pytest.approx(0.388)
