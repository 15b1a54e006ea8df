"""Backoff, the death tally, and the naming of causes."""

from __future__ import annotations

import pytest

from runner_supervisor.core.restart import Cause, Death, Exit, RestartPolicy, backoff_s, cause_of, recent

POLICY = RestartPolicy(backoff_base_s=1, backoff_cap_s=30, breaker_deaths=3, breaker_window_s=10)


@pytest.mark.parametrize(("attempt", "longest_s"), [(0, 1), (1, 2), (4, 16), (5, 30), (10_000, 30)])
def test_the_wait_is_drawn_evenly_up_to_a_doubling_bound(attempt: int, longest_s: float) -> None:
    waits = [backoff_s(attempt=attempt, jitter=jitter, policy=POLICY) for jitter in (0.0, 0.5, 1.0)]
    assert waits == [0, longest_s / 2, longest_s]


def test_only_as_many_deaths_are_kept_as_can_matter() -> None:
    deaths = tuple(Death(Cause.CRASH, "signal 9", at=at, was_ready=True) for at in range(10))
    assert [death.at for death in recent(deaths, now=10, policy=POLICY)] == [7, 8, 9]
    assert [death.at for death in recent(deaths, now=18.5, policy=POLICY)] == [9]


OOM_LINE = "0.00.003.000 E ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"
CORRUPT = "0.00.003.000 E llama_model_load: error loading model: tensor data is not within the file bounds"
SURVIVED = "0.00.003.000 W ggml_cuda_host_malloc: failed to allocate 10.00 MiB of pinned memory"


@pytest.mark.parametrize(
    ("exit_", "words", "oom_killed", "came_up", "cause"),
    [
        (Exit(signal=11), [], False, False, Cause.CRASH),
        (Exit(signal=9), [], False, True, Cause.CRASH),
        (Exit(signal=9), [], True, True, Cause.OOM),
        (Exit(signal=11), [], True, True, Cause.CRASH),
        (Exit(signal=6), [OOM_LINE], False, True, Cause.OOM),
        (Exit(code=1), [OOM_LINE], False, False, Cause.OOM),
        (Exit(signal=6), [SURVIVED], False, True, Cause.CRASH),
        (Exit(code=1), [], False, False, Cause.CONFIG),
        (Exit(code=1), [], False, True, Cause.EXIT),
        (Exit(code=1), [CORRUPT], False, True, Cause.CONFIG),
        (Exit(code=1), ["error: invalid argument: --nonsense"], False, True, Cause.CONFIG),
        (Exit(code=3), [], False, False, Cause.EXIT),
        (Exit(code=0), [], False, False, Cause.CONFIG),
        (Exit(code=0), [], False, True, Cause.EXIT),
    ],
)
def test_causes(exit_: Exit, words: list[str], oom_killed: bool, came_up: bool, cause: Cause) -> None:
    assert cause_of(exit_, words=words, oom_killed=oom_killed, came_up=came_up) is cause
