"""The corpus: what the demo model is trained on, made up here without end from one seed.

A document is a chat of one to three turns, or a run of stories. Prompts come in all sorts of writing: without
capitals, without marks, with slips of the finger. About a third of all chats ask for what the model does not know.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tools.demo_model import stories, talk, vocabulary
from tools.demo_model.facts import facts
from tools.demo_model.pattern import one_of, words_of

SEED = 8080
VERSION = "1"
STORY_SHARE = 0.12
UNKNOWN_SHARE = 0.3
HELLO_SHARE = 0.05
FINGERPRINT_DOCUMENTS = 1000
LETTERS = ("bcdfghjklmnpqrstvwz", "aeiou")
OTHER_SCRIPTS = ((0xC0, 0x24F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x3041, 0x3096), (0x4E00, 0x9FA5),
                 (0x1F300, 0x1F64F))  # fmt: skip


NAMED = (*talk.SMALL_TALK, *talk.TECHNICAL, *talk.PLAY)
TOPICS = (*NAMED, *facts())


@dataclass(frozen=True)
class Document:
    """A text as the model sees it.

    Attributes:
        ids: its tokens, with the beginning-of-text token.
        learned_from: the first token that the model is to learn to say; those before it are given.
    """

    ids: tuple[int, ...]
    learned_from: int

    @property
    def is_chat(self) -> bool:
        """Whether it is no run of stories."""
        return self.learned_from > 2


@cache
def words() -> vocabulary.Vocabulary:
    """The demo model's vocabulary: all words of the corpus, as they stand and without capitals."""
    asked = [prompt for topic in TOPICS for prompt in topic.prompts] + list(talk.UNKNOWN_FRAMES)
    answers = [topic.answer for topic in TOPICS] + [talk.UNKNOWN]
    patterns = [*answers, *stories.patterns(), *asked, *talk.SYSTEMS]
    found = [vocabulary.bare(word) for pattern in patterns for word in words_of(pattern) if word[0] != "<"]
    known = [*found, *(word.lower() for word in found), *vocabulary.WORD_LIST.split()]
    return vocabulary.of_words(known, openings=dict.fromkeys(map(vocabulary.first_word, answers)))


def documents(seed: int = SEED) -> Iterator[Document]:
    """The corpus, without end. The same seed gives the same documents."""
    dice = random.Random(seed)  # noqa: S311
    while True:
        yield _run_of_stories(dice) if dice.random() < STORY_SHARE else _chat(dice)


def fingerprint() -> str:
    """Tells one corpus from another: a hash of its vocabulary and its first documents."""
    found = hashlib.sha256("\n".join(words().pieces).encode())
    for _, document in zip(range(FINGERPRINT_DOCUMENTS), documents(), strict=False):
        found.update(repr(document).encode())
    return found.hexdigest()


def prompt_ids(messages: list[dict[str, str]]) -> list[int]:
    """The tokens of a chat up to where the model is to answer, as llama-server makes them with CHAT_TEMPLATE."""
    book = words()
    ids = [vocabulary.BOS]
    for message in messages:
        ids += [book.ids[f"<|{message['role']}|>"], *book.encode(message["content"])]
        ids += [vocabulary.EOS] if message["role"] == "assistant" else []
    return [*ids, book.ids["<|assistant|>"]]


def _run_of_stories(dice: random.Random) -> Document:
    ids = words().encode(stories.endless(dice, least_words=dice.randint(100, 250)))
    start = dice.randrange(40) if dice.random() < 0.5 else 0  # a text may begin anywhere
    return Document((vocabulary.BOS, *ids[start:]), 2)


def _chat(dice: random.Random) -> Document:
    messages = []
    if dice.random() < 0.15:
        messages.append({"role": "system", "content": one_of(dice.choice(talk.SYSTEMS), dice)})
    turns = dice.choices((1, 2, 3), (10, 2, 1))[0]
    for turn in range(turns):
        prompt, answer = _exchange(dice)
        messages.append({"role": "user", "content": prompt})
        if turn < turns - 1:
            messages.append({"role": "assistant", "content": answer})
    given = prompt_ids(messages)
    return Document((*given, *words().encode_answer(answer), vocabulary.EOS), len(given))


def _exchange(dice: random.Random) -> tuple[str, str]:
    kind = dice.random()
    if kind < UNKNOWN_SHARE:
        return _written(_filled(dice.choice(talk.UNKNOWN_FRAMES), dice), dice), talk.UNKNOWN
    if kind < UNKNOWN_SHARE + HELLO_SHARE:
        topic = NAMED[0]
    else:
        topic = dice.choice(TOPICS) if dice.random() < 0.5 else dice.choice(NAMED)
    return _written(_filled(dice.choice(topic.prompts), dice), dice), topic.answer


def _filled(pattern: str, dice: random.Random) -> str:
    text = one_of(pattern, dice)
    while "<words>" in text:
        text = text.replace("<words>", " ".join(_word(dice) for _ in range(dice.choice((1, 1, 2, 2, 3, 4, 6, 9)))), 1)
    while "<digits>" in text:
        text = text.replace("<digits>", str(dice.randint(11, 10 ** dice.randint(2, 6))), 1)
    return text


def _word(dice: random.Random) -> str:
    kind = dice.random()
    if kind < 0.5:
        return dice.choice(vocabulary.WORD_LIST.split())
    if kind < 0.9:
        made = "".join(dice.choice(LETTERS[at % 2]) for at in range(dice.randint(1, 9)))
        return made.capitalize() if dice.random() < 0.3 else made
    first, last = dice.choice(OTHER_SCRIPTS)
    return "".join(chr(dice.randint(first, last)) for _ in range(dice.randint(1, 5)))


def _written(prompt: str, dice: random.Random) -> str:
    """A prompt as somebody may type it."""
    question = prompt.split(" ", 1)[0] in {"What", "Who", "How", "Which", "Where", "Why", "Are", "Can", "Do", "Is"}
    prompt = prompt[:1].upper() + prompt[1:]
    style = dice.random()
    if style < 0.3:
        prompt = prompt.lower()
    elif style < 0.35:
        prompt = prompt.upper()
    if dice.random() < 0.06 and len(prompt) > 6:
        at = dice.randrange(1, len(prompt) - 1)
        slip = dice.choice((prompt[at + 1] + prompt[at], prompt[at] * 2, "", dice.choice(string.ascii_lowercase)))
        prompt = prompt[:at] + slip + prompt[at + 1 + (len(slip) == 2 and slip[0] != slip[1]) :]
    marks = ("?", "", "??", " ?") if question else (".", "", "!", "!!", "...")
    return prompt + dice.choices(marks, [8, 5, 1, 1, 1][: len(marks)])[0]
