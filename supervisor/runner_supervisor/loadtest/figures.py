"""What became of requests, and what that says of a step of a load test. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runner_supervisor.front.pages.meter import quantile_ms


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `ttft_s`: from the request to its first token; `took_s`: to its end. Tokens as the engine said;
    `prompt_tokens` include `cached_tokens`.
    """

    ttft_s: float
    took_s: float
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int

    @property
    def per_token_s(self) -> float | None:
        """Seconds for each token after the first; None: there was no other."""
        return (self.took_s - self.ttft_s) / (self.generated_tokens - 1) if self.generated_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a whole answer. `cause`: in few words, the same for all of its kind; `message`: in a line."""

    cause: str
    message: str


Outcome = Answer | Failure


@dataclass(frozen=True, slots=True)
class Step:
    """What one step has shown; None where no answer says it.

    `answers` of `requests` were whole, `errors` says what became of the others. Quantiles are over answers:
    `stream_tokens_per_s` is the median of what one stream got after its first token, `per_token_*_ms` the time for
    each of those. Tokens are sums.
    """

    concurrency: int
    requests: int
    answers: int
    errors: dict[str, int]
    elapsed_s: float
    requests_per_s: float
    tokens_per_s: float
    stream_tokens_per_s: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    per_token_p50_ms: float | None
    per_token_p95_ms: float | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


def summary(outcomes: Sequence[Outcome], *, concurrency: int, elapsed_s: float) -> Step:
    """The figures of a step. `elapsed_s`: from its first request to its last answer."""
    answers = [each for each in outcomes if isinstance(each, Answer)]
    errors = Counter(each.cause for each in outcomes if isinstance(each, Failure))
    ttft_s = sorted(each.ttft_s for each in answers)
    per_token_s = sorted(each.per_token_s for each in answers if each.per_token_s is not None)
    generated = sum(each.generated_tokens for each in answers)
    per_token_p50_ms = _quantile_ms(per_token_s, 0.5)
    return Step(
        concurrency=concurrency,
        requests=len(outcomes),
        answers=len(answers),
        errors=dict(errors.most_common()),
        elapsed_s=round(elapsed_s, 3),
        requests_per_s=round(len(answers) / elapsed_s, 2),
        tokens_per_s=round(generated / elapsed_s, 1),
        stream_tokens_per_s=round(1000 / per_token_p50_ms, 1) if per_token_p50_ms else None,
        ttft_p50_ms=_quantile_ms(ttft_s, 0.5),
        ttft_p95_ms=_quantile_ms(ttft_s, 0.95),
        per_token_p50_ms=per_token_p50_ms,
        per_token_p95_ms=_quantile_ms(per_token_s, 0.95),
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        cached_tokens=sum(each.cached_tokens for each in answers),
        generated_tokens=generated,
    )


def _quantile_ms(ordered_s: Sequence[float], share: float) -> float | None:
    return quantile_ms(ordered_s, share, digits=3) if ordered_s else None
