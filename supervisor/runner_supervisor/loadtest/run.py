"""Runs a load test: streams of /v1/chat/completions, so many at once, step after step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from runner_supervisor.loadtest.endpoint import Endpoint
from runner_supervisor.loadtest.figures import Answer, Failure, Outcome, Step, summary
from runner_supervisor.loadtest.prompts import prompt, words_for

AFTER_FAILURE_S = 0.2
"""So that an endpoint that turns all away is not asked without end, in seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is tested: each of `concurrency` is a step, of so many `requests`, or, where that is None, of all that
    begin within `seconds_s`. Prompts have about `prompt_tokens`, answers `max_tokens`.
    """

    concurrency: tuple[int, ...]
    requests: int | None
    seconds_s: float
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Start:
    """What the first request has shown: which model answers, how many words make a prompt, and what it has cost."""

    model: str
    words: int
    warm_up: Answer


@dataclass(slots=True)
class Course:
    """One step as it goes. `began_s`, `ended_s`: of its first request and last answer, on `perf_counter`'s clock."""

    concurrency: int
    began_s: float
    begun: int = 0
    ended_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    def may_begin(self, plan: Plan, *, now_s: float) -> bool:
        """Whether there is another request to make."""
        if plan.requests is None:
            return now_s < self.began_s + plan.seconds_s
        return self.begun < plan.requests

    def summary(self) -> Step:
        """What it has shown so far."""
        return summary(self.outcomes, concurrency=self.concurrency, elapsed_s=self.ended_s - self.began_s)


async def measure(
    endpoint: Endpoint,
    plan: Plan,
    *,
    random: Random,
    on_start: Callable[[Start], None],
    on_progress: Callable[[Course], None],
    on_step: Callable[[Step], None],
) -> None:
    """Warm it up, then take all steps. When it is cancelled, it still tells what the step under way has shown.

    Args:
        endpoint: what to test.
        plan: how.
        random: where prompts come from.
        on_start: told once the endpoint has answered.
        on_progress: told whenever a request has ended.
        on_step: told of each step.

    Raises:
        RunnerError: the endpoint does not answer the first request.
    """
    model = await endpoint.model()
    first = prompt(words=plan.prompt_tokens, random=random)
    warm_up = await endpoint.must_chat(model, first, max_tokens=plan.max_tokens)
    words = words_for(tokens=plan.prompt_tokens, words=plan.prompt_tokens, took_tokens=warm_up.prompt_tokens)
    on_start(Start(model, words, warm_up))

    async def work(course: Course) -> None:
        while course.may_begin(plan, now_s=time.perf_counter()):
            course.begun += 1
            asked = prompt(words=words, random=random)
            outcome = await endpoint.chat(model, asked, max_tokens=plan.max_tokens)
            course.ended_s = time.perf_counter()
            course.outcomes.append(outcome)
            on_progress(course)
            if isinstance(outcome, Failure):
                await asyncio.sleep(AFTER_FAILURE_S)

    for concurrency in plan.concurrency:
        course = Course(concurrency, time.perf_counter())
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(work(course))
        finally:
            if course.outcomes:
                on_step(course.summary())
