"""What an answer cost, by the engine's own figures: tokens of the prompt, those of them cached, tokens generated.

Every answer carries them somewhere (tools/server/server-task.cpp): `usage` in OpenAI's and Anthropic's shapes,
`tokens_*` in llama-server's own, `timings` in most. A stream has them in its last event, an answer about embeddings
at its beginning, Anthropic's streams half and half. So only the beginning and the end are looked at, once, and
nothing while tokens pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""For what the engine gave no figures for; a little less than text has on average, so nobody gains by leaving."""

FIGURE = re.compile(
    rb'"(prompt_tokens|input_tokens|tokens_evaluated|prompt_n|cached_tokens|cache_read_input_tokens|cache_n|'
    rb'completion_tokens|output_tokens|tokens_predicted|predicted_n)":(\d{1,9})'
)
"""In a JSON string every quote has a backslash before it, so no text that the model writes looks like this."""

GENERATED = (b"completion_tokens", b"tokens_predicted", b"output_tokens", b"predicted_n")
ENOUGH = frozenset({*GENERATED, b"prompt_tokens", b"input_tokens"})
"""Names of which an answer must have one: where nothing was generated (embeddings), it has the prompt's alone."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Tokens of one request. `estimated`: the engine did not say, because the answer broke off."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    estimated: bool = False

    def times(self, count: int) -> Figures:
        """For so many answers of the same size."""
        return Figures(
            self.prompt_tokens * count, self.cached_tokens * count, self.generated_tokens * count, self.estimated
        )


def read(first: bytes, last: Iterable[bytes]) -> Figures | None:
    """The figures in an answer, or None: it has none, or not all, as its client may have asked (`response_fields`).

    Args:
        first: the beginning of its body.
        last: the ends of the pieces that came last.
    """
    found = {match[1]: int(match[2]) for match in FIGURE.finditer(b"".join((first, b"\n", *last)))}
    if not found.keys() & ENOUGH:
        return None
    cached = found.get(b"cached_tokens", found.get(b"cache_read_input_tokens", found.get(b"cache_n", 0)))
    for name in (b"prompt_tokens", b"tokens_evaluated"):  # cached ones included
        if name in found:
            prompt = found[name]
            break
    else:
        prompt = found.get(b"input_tokens", found.get(b"prompt_n", 0))
        if b"cached_tokens" not in found:  # OpenAI's `input_tokens` count the cached ones, Anthropic's do not
            prompt += cached
    generated = next((found[name] for name in GENERATED if name in found), 0)
    return Figures(prompt, cached, generated)


def estimate(*, asked_bytes: int, pieces: int, answer_bytes: int, streamed: bool) -> Figures:
    """What an answer that gave no figures may have cost.

    Args:
        asked_bytes: length of the request's body.
        pieces: how many pieces of the answer came.
        answer_bytes: their length in all.
        streamed: whether it is a stream of events, which has about one piece for each token.
    """
    generated = pieces if streamed else answer_bytes // BYTES_PER_TOKEN
    return Figures(asked_bytes // BYTES_PER_TOKEN, 0, generated, estimated=True)
