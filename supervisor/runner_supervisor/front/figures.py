"""What an answer cost, by the engine's own figures: tokens of the prompt, those of them cached, tokens generated.

Every answer carries them somewhere (tools/server/server-task.cpp): `usage` in OpenAI's and Anthropic's shapes,
`tokens_*` in llama-server's own, `timings` in most. A stream has them in its last event, an answer about embeddings
at its beginning, Anthropic's streams half and half. So only the beginning and the end are looked at, once, and
nothing while tokens pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""For what the engine gave no figures for; a little less than text has on average, so nobody gains by leaving."""

EVENT_BYTES = 256
"""At least as long as most events, each of which has one token: reads that bring several are told by their length."""

FIGURE = re.compile(
    rb'"(prompt_tokens|input_tokens|tokens_evaluated|prompt_n|cached_tokens|cache_read_input_tokens|cache_n|'
    rb'completion_tokens|output_tokens|tokens_predicted|predicted_n)":(\d{1,9})'
)
"""In a JSON string every quote has a backslash before it, so no text that the model writes looks like this."""

GENERATED = (b"completion_tokens", b"predicted_n", b"tokens_predicted", b"output_tokens")

Found = Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """Tokens of one request. `estimated`: the engine did not say all of it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: its body's length in bytes, how many prompts, how many answers to each, and whether
    they are generated (embeddings and scores are not).
    """

    size_bytes: int
    prompts: int = 1
    copies: int = 1
    generates: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
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


def figures_of(asked: Asked, seen: Seen) -> Figures:
    """What a request has cost: the engine's figures as far as it gave them, estimates for the rest.

    It gives those of one answer (that of the first prompt, where there are several), and none of what the client left
    out (`response_fields`), or left before. Anthropic's streams say at their beginning that nothing was generated.
    """
    late = _found(b"".join(seen.last))
    told, generated = _prompt(late), _generated(late)
    if told is None or generated is None:
        early = _found(seen.first)
        told = told or _prompt(early)
        generated = _generated(early) if generated is None else generated
    prompt, cached = told or (None, 0)
    sent = asked.size_bytes // BYTES_PER_TOKEN
    sure = True
    if prompt is None or asked.prompts > 1:
        prompt, sure = max(prompt or 0, sent), False
    if not asked.generates:
        return Figures(prompt, cached, 0, estimated=not sure)
    answers = asked.prompts * asked.copies
    if generated is None or answers > 1 or not seen.whole:
        passed = (
            max(seen.pieces, seen.size_bytes // EVENT_BYTES) if seen.streamed else seen.size_bytes // BYTES_PER_TOKEN
        )
        if generated is None or seen.streamed or asked.prompts > 1:
            sure = sure and generated is not None and generated * answers >= passed
            generated = max((generated or 0) * answers, passed)
        else:
            generated *= answers
    return Figures(prompt, cached, generated, estimated=not sure)


def _found(part: bytes) -> Found:
    return {match[1]: int(match[2]) for match in FIGURE.finditer(part)}


def _prompt(found: Found) -> tuple[int, int] | None:
    """Tokens of the prompt, and those of them that were cached."""
    cached = found.get(b"cached_tokens", found.get(b"cache_read_input_tokens", found.get(b"cache_n", 0)))
    for name in (b"prompt_tokens", b"tokens_evaluated"):  # cached ones included
        if name in found:
            return found[name], cached
    fresh = found.get(b"input_tokens", found.get(b"prompt_n"))
    if fresh is None:
        return None
    return (fresh if b"cached_tokens" in found else fresh + cached), cached  # OpenAI's `input_tokens` count them


def _generated(found: Found) -> int | None:
    return next((found[name] for name in GENERATED if name in found), None)
