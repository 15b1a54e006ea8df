"""What an answer cost, by the engine's own figures: tokens of the prompt, those of them cached, tokens generated.

Every answer carries them somewhere (tools/server/server-task.cpp): `usage` in OpenAI's and Anthropic's shapes,
`tokens_*` in llama-server's own, `timings` in most. A stream has them in its last event, an answer about embeddings
at its beginning, Anthropic's streams half and half. So only the beginning and the end are looked at, once, and
nothing while tokens pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

BYTES_PER_TOKEN: Final = 4
"""For what the engine gave no figures for; a little less than text has on average, so nobody gains by leaving."""

EVENT_BYTES: Final = 256
"""At least as long as most events, each of which has one token: reads that bring several are told by their length."""

NUMBER: Final = re.compile(rb"\d{1,9}")

PROMPT: Final = (b'"prompt_tokens":', b'"tokens_evaluated":')
"""All tokens of the prompt, cached ones included."""

FRESH: Final = (b'"input_tokens":', b'"prompt_n":')
"""Tokens of the prompt; OpenAI's `input_tokens` include cached ones, Anthropic's and `prompt_n` do not."""

OPENAI_CACHED: Final = b'"cached_tokens":'
CACHED: Final = (OPENAI_CACHED, b'"cache_read_input_tokens":', b'"cache_n":')
USAGE: Final = re.compile(
    rb'"usage":{"completion_tokens":(\d{1,9}),"prompt_tokens":(\d{1,9}),"total_tokens":\d+,'
    rb'"prompt_tokens_details":{"cached_tokens":(\d{1,9})'
)
"""As most answers have it (tools/server/server-task.cpp, `usage_json_oaicompat`)."""

GENERATED: Final = (b'"completion_tokens":', b'"predicted_n":', b'"tokens_predicted":', b'"output_tokens":')
"""In a JSON string every quote has a backslash before it, so no text that the model writes looks like these."""


class Figures(NamedTuple):
    """Tokens of one request. `estimated`: the engine did not say all of it.

    Tuples here, as they are made for every request and cost a third of a frozen dataclass.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    estimated: bool = False


class Asked(NamedTuple):
    """What a request asks for: its body's length in bytes, how many prompts, how many answers to each (0: nobody
    knows), and whether they are generated (embeddings and scores are not).
    """

    size_bytes: int
    prompts: int = 1
    copies: int = 1
    generates: bool = True


class Seen(NamedTuple):
    """What passed of an answer's body.

    `first`: its beginning. `last`: the ends of the pieces that came last. `pieces`, `size_bytes`: how many, how long
    in all. `streamed`: whether it is a stream of events. `whole`: whether it came to its end.
    """

    first: bytes
    last: Iterable[bytes]
    pieces: int
    size_bytes: int
    streamed: bool
    whole: bool


class Bill:
    """What is to be known of a request to say what it has cost, which is found out when somebody asks.

    Takes what `Asked` and `Seen` have, which need not be made for most requests.
    """

    def __init__(
        self,
        *,
        asked_bytes: int,
        prompts: int,
        copies: int,
        generates: bool,
        first: bytes,
        last: list[bytes],
        pieces: int,
        size_bytes: int,
        streamed: bool,
        whole: bool,
    ) -> None:
        self._asked_bytes = asked_bytes
        self._prompts = prompts
        self._copies = copies
        self._generates = generates
        self._first = first
        self._last = last
        self._pieces = pieces
        self._size_bytes = size_bytes
        self._streamed = streamed
        self._whole = whole
        self._figures: Figures | None = None

    def figures(self) -> Figures:
        """What it has cost."""
        if self._figures is None:
            single = self._whole and self._generates and self._prompts == self._copies == 1
            self._figures = (told(self._last) if single else None) or figures_of(
                Asked(self._asked_bytes, self._prompts, self._copies, self._generates),
                Seen(self._first, self._last, self._pieces, self._size_bytes, self._streamed, self._whole),
            )
        return self._figures


def told(last: Iterable[bytes]) -> Figures | None:
    """What an answer, by its last pieces, has cost; None if they do not say all of it."""
    late = b"".join(last)
    at = late.rfind(b'"usage":{')
    usage = USAGE.match(late, at) if at >= 0 else None
    if usage is not None:
        return Figures(int(usage[2]), int(usage[3]), int(usage[1]))
    generated = _first(late, GENERATED)
    prompt, cached = (None, 0) if generated is None else _prompt(late)
    return None if generated is None or prompt is None else Figures(prompt, cached, generated)


def figures_of(asked: Asked, seen: Seen) -> Figures:
    """What a request has cost: the engine's figures as far as it gave them, estimates for the rest.

    It gives those of one answer (that of the first prompt, where there are several), and none of what the client left
    out (`response_fields`), or left before. Anthropic's streams say at their beginning that nothing was generated.
    """
    late = b"".join(seen.last)
    prompt, cached = _prompt(late)
    generated = _first(late, GENERATED)
    if prompt is None or generated is None:
        if prompt is None:
            prompt, cached = _prompt(seen.first)
        if generated is None:
            generated = _first(seen.first, GENERATED)
    sent = asked.size_bytes // BYTES_PER_TOKEN
    sure = True
    if prompt is None or asked.prompts > 1:
        prompt, sure = max(prompt or 0, sent), False
    if not asked.generates:
        return Figures(prompt, cached, 0, not sure)
    answers = asked.prompts * asked.copies
    if generated is None or answers != 1 or not seen.whole:
        passed = (
            max(seen.pieces, seen.size_bytes // EVENT_BYTES) if seen.streamed else seen.size_bytes // BYTES_PER_TOKEN
        )
        if generated is None or seen.streamed or asked.prompts > 1 or not answers:
            sure = sure and generated is not None and generated * answers >= passed
            generated = max((generated or 0) * max(1, answers), passed)
        else:
            generated *= answers
    return Figures(prompt, cached, generated, not sure)


def _prompt(part: bytes) -> tuple[int | None, int]:
    """Tokens of the prompt, None if they are not there, and those of them that were cached."""
    prompt = _first(part, PROMPT)
    if prompt is not None:
        return prompt, _first(part, CACHED) or 0
    fresh = _first(part, FRESH)
    if fresh is None:
        return None, 0
    cached = _number(part, OPENAI_CACHED)
    if cached is not None:
        return fresh, cached
    cached = _first(part, CACHED) or 0
    return fresh + cached, cached


def _first(part: bytes, names: Sequence[bytes]) -> int | None:
    """The number that the first of these names has that is there."""
    for name in names:
        number = _number(part, name)
        if number is not None:
            return number
    return None


def _number(part: bytes, name: bytes) -> int | None:
    """The number that a name has where it comes last. Finding each is faster than one pattern with all of them."""
    at = part.rfind(name)
    found = NUMBER.match(part, at + len(name)) if at >= 0 else None
    return int(found[0]) if found else None
