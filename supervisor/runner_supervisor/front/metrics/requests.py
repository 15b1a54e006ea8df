"""What became of requests. Each is counted once, at its end, by a few additions; all else waits for a scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from runner_supervisor.front.audit import ABANDONED, ANSWERED, BROKEN, CANCELLED, OTHER
from runner_supervisor.front.metrics.series import Durations, Family, Kind, Labels, Series

FIRST_TOKEN_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PER_TOKEN_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
WHOLE_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of buckets: from a small model on a fast GPU to a large one on a CPU."""

OUTCOMES: Final = {
    "ok": "a complete answer with a status below 400",
    "error": "the engine's own answer with another status, one it broke off, or none, because it ended",
    "cancelled": "the client left, or an operator cancelled it",
    "refused": "the front said no, and the engine was not at work on it",
}
"""Every request ends in one of these ways."""

GIVEN_UP: Final = frozenset({ABANDONED, CANCELLED})
REFUSED: Final = "refused:"
AT_WORK: Final = frozenset({"engine_failed", "poison_request"})
"""Codes of refusals that say how the engine failed at a request."""

EXPECTED: Final = (("broken",), ("engine_failed",), ("engine_5xx",), ("queue_full",), ("queue_timeout",))
"""Causes that are there from the start, so that the first one is an increase: alerts look for these."""

BY_ROUTE: Final = ("model", "path")
REQUESTS: Final = Series(
    "runner_requests_total",
    Kind.COUNTER,
    "Requests that have ended, by the class of their status (none: no answer) and how they ended.",
    (*BY_ROUTE, "status", "outcome"),
)
ERRORS: Final = Series(
    "runner_request_errors_total",
    Kind.COUNTER,
    "Requests that ended as error or refused, by cause: the code of the error body, broken, engine_4xx, engine_5xx.",
    ("cause",),
)
WHOLE: Final = Series(
    "runner_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request's head to the end of its answer, of complete answers of the engine.",
    BY_ROUTE,
)
FIRST_TOKEN: Final = Series(
    "runner_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time from a request's head to the first bytes of its stream.",
    BY_ROUTE,
)
PER_TOKEN: Final = Series(
    "runner_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Time between a complete stream's first and last token, for each token after the first.",
    BY_ROUTE,
)
SOURCES: Final = ("engine", "estimate")
TOKENS: Final = tuple(
    Series(
        f"runner_{name}_tokens_total",
        Kind.COUNTER,
        f"{meaning}, as the engine said or, where it did not say all, as estimated.",
        (*BY_ROUTE, "source"),
    )
    for name, meaning in (
        ("prompt", "Tokens of prompts, cached ones included"),
        ("cached", "Tokens of prompts that the engine had cached"),
        ("generated", "Tokens generated"),
    )
)
KEY_REQUESTS: Final = Series(
    "runner_key_requests_total",
    Kind.COUNTER,
    "Requests of each key that have ended (with metrics_by_key).",
    ("key", "outcome"),
)
KEY_TOKENS: Final = Series(
    "runner_key_tokens_total",
    Kind.COUNTER,
    "Tokens of each key, prompt or generated (with metrics_by_key).",
    ("key", "kind"),
)
CONTROL: Final = Series(
    "runner_control_requests_total",
    Kind.COUNTER,
    "Requests that the front answered itself: health, metrics, admin, pages.",
    ("path", "status"),
)
SERIES: Final = (
    REQUESTS, ERRORS, WHOLE, FIRST_TOKEN, PER_TOKEN, *TOKENS, KEY_REQUESTS, KEY_TOKENS, CONTROL,
)  # fmt: skip


class Cost(Protocol):
    """What a request has cost, in tokens. `estimated`: the engine did not say all of it."""

    @property
    def prompt_tokens(self) -> int:
        """Cached ones included."""

    @property
    def cached_tokens(self) -> int:
        """Those that the engine had."""

    @property
    def generated_tokens(self) -> int:
        """Those of its answer."""

    @property
    def estimated(self) -> bool:
        """Whether these are not all the engine's own figures."""


class _Line:
    """What is known of one model's requests to one route. `tokens`: prompt, cached, generated, by source."""

    __slots__ = ("first_token", "per_token", "tokens", "whole")

    def __init__(self) -> None:
        self.first_token = Durations(FIRST_TOKEN_S)
        self.per_token = Durations(PER_TOKEN_S)
        self.whole = Durations(WHOLE_S)
        self.tokens = [[0, 0], [0, 0], [0, 0]]


class Tally:
    """Counts requests. `by_key`: whether keys are told apart, too."""

    def __init__(self) -> None:
        self.by_key = False
        self._ended: dict[tuple[str, str, int, str], int] = {}
        self._lines: dict[tuple[str, str], _Line] = {}
        self._keys: Counter[Labels] = Counter()
        self._key_tokens: Counter[Labels] = Counter()
        self._control: Counter[tuple[str, int]] = Counter()

    def ended(
        self,
        model: str,
        path: str,
        status: int,
        outcome: str,
        *,
        key: str,
        cost: Cost,
        began_s: float,
        first_s: float,
        now_s: float,
    ) -> None:
        """Count one request that has ended.

        Args:
            model: the one that is served.
            path: its route's label.
            status: of its answer; 0: it got none.
            outcome: see `front.audit`.
            key: the id of its key; "": it had none.
            cost: its tokens.
            began_s: when its head was there.
            first_s: when a stream's first bytes came from the engine; 0: no stream.
            now_s: the time, in seconds, as all of these are.
        """
        ended = self._ended
        what = (model, path, status, outcome)
        ended[what] = ended.get(what, 0) + 1
        prompt, generated = cost.prompt_tokens, cost.generated_tokens
        if self.by_key:
            self._count_for(key, bucket(status, outcome), prompt, generated)
        whole = outcome == ANSWERED
        if not (whole or prompt or first_s):
            return
        line = self._lines.get((model, path))
        if line is None:
            line = self._lines[model, path] = _Line()
        if whole:
            line.whole.observe(now_s - began_s)
        if first_s:
            line.first_token.observe(first_s - began_s)
            if whole and generated > 1:
                line.per_token.observe((now_s - first_s) / (generated - 1))
        if prompt:
            source = cost.estimated
            line.tokens[0][source] += prompt
            line.tokens[1][source] += cost.cached_tokens
            line.tokens[2][source] += generated

    def unread(self, status: int, outcome: str) -> None:
        """Count one request that was refused before its head was understood."""
        what = ("", OTHER, status, outcome)
        self._ended[what] = self._ended.get(what, 0) + 1

    def controlled(self, path: str, status: int) -> None:
        """Count one request that the front answered itself. `path`: bounded."""
        self._control[path, status] += 1

    def _count_for(self, key: str, outcome: str, prompt: int, generated: int) -> None:
        self._keys[key, outcome] += 1
        if prompt:
            self._key_tokens[key, "prompt"] += prompt
            self._key_tokens[key, "generated"] += generated

    def collect(self) -> Iterator[Family]:
        """All of it, to be rendered."""
        requests: Counter[Labels] = Counter()
        errors: Counter[Labels] = Counter(dict.fromkeys(EXPECTED, 0))
        for (model, path, status, outcome), count in self._ended.items():
            requests[model, path, status_class(status), bucket(status, outcome)] += count
            if why := cause(status, outcome):
                errors[why,] += count
        yield REQUESTS.of(requests)
        yield ERRORS.of(errors)
        yield WHOLE.histogram((labels, line.whole) for labels, line in self._lines.items())
        yield FIRST_TOKEN.histogram((labels, line.first_token) for labels, line in self._lines.items())
        yield PER_TOKEN.histogram((labels, line.per_token) for labels, line in self._lines.items())
        for number, series in enumerate(TOKENS):
            yield series.of(
                ((*labels, source), count)
                for labels, line in self._lines.items()
                for source, count in zip(SOURCES, line.tokens[number], strict=True)
            )
        if self.by_key:
            yield KEY_REQUESTS.of(self._keys)
            yield KEY_TOKENS.of(self._key_tokens)
        control: Counter[Labels] = Counter()
        for (path, status), count in self._control.items():
            control[path, status_class(status)] += count
        yield CONTROL.of(control)


def bucket(status: int, outcome: str) -> str:
    """In which of the four ways a request ended."""
    if outcome in GIVEN_UP:
        return "cancelled"
    if outcome == BROKEN:
        return "error"
    if status < 400:  # a preflight, too, which is no refusal
        return "ok"
    return "error" if outcome == ANSWERED or outcome.removeprefix(REFUSED) in AT_WORK else "refused"


def cause(status: int, outcome: str) -> str | None:
    """Why it ended as error or refused; None: it did not."""
    match bucket(status, outcome):
        case "ok" | "cancelled":
            return None
    return f"engine_{status_class(status)}" if outcome == ANSWERED else outcome.removeprefix(REFUSED)


def status_class(status: int) -> str:
    """200 is 2xx, and 0 none."""
    return f"{status // 100}xx" if status else "none"
