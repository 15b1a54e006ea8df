"""The goldens: prompts that the demo model is sure about, and what any backend must answer to them.

Each token's logit is so far above the next best one's that neither the order in which a backend adds up, nor a cache
in fewer bits, makes another one the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SCHEMA = 1
LEAST_MARGIN = 2.0
MAX_TOKENS = 48

Messages = list[dict[str, str]]
Ask = Callable[[Messages, int], tuple[str, float]]
"""Gives the answer to a chat, of so many tokens at most, and the least margin of its tokens in nats."""


def said(*contents: str, system: str = "") -> Messages:
    """A chat: what user and assistant say in turn."""
    roles = ("user", "assistant")
    told = [{"role": "system", "content": system}] if system else []
    return told + [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]


PROMPTS: tuple[Messages, ...] = (
    said("Hello!"),
    said("What is the capital of France?"),
    said("count to ten"),
    said("What is 17 * 23?"),
    said("Tell me a story."),
    said("What are the days of the week?", system="You are a helpful assistant."),
    said("Hi", "Hello!", "What is GGUF?"),
    said("How do I serve my own model?"),
)

LOOKED_AT: tuple[Messages, ...] = (
    said("hello"), said("HELLO"), said("Hi there!"), said("Hello, how are you?"), said("hey whats up"),
    said("Who are you?"), said("what can you do"), said("thanks!"), said("Thank you, bye"), said("Tell me a joke"),
    said("Write a poem about the sea"), said("What is GGUF?"), said("what is llama.cpp"), said("2+2"), said("2+2=?"),
    said("What colour is the sky?"), said("What is the meaning of life?"), said("Explain quantum computing."),
    said("Write a Python function that sorts a list."), said("Wie geht es dir?"), said("Bonjour !"),
    said("\u4f60\u597d"), said("Tell me about the sea."), said("What is the capital of Mongolia?"),
    said("How do I use a real model?"), said("The sea"), said(""), said("x"), said("a\nb\nc"),
    said("Hello!", "Hello!", "Who are you?", "I am a demo.", "Thanks", "You are welcome!", "Count to ten."),
)  # fmt: skip
"""Prompts that no pattern need cover: how the model does with them is shown."""

STARTS = ("The sea", "Once upon a time", "x")
"""Texts that are no chat, to be gone on with."""


def asked(ask: Ask) -> list[dict[str, Any]]:
    """What the model answers to the goldens' prompts, as goldens.json has it."""
    found = []
    for messages in PROMPTS:
        answer, margin = ask(messages, MAX_TOKENS)
        entry = {"messages": messages, "max_tokens": MAX_TOKENS, "answer": answer, "least_margin": round(margin, 2)}
        found.append(entry)
    return found
