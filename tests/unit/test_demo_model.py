"""The demo model: its vocabulary, its corpus, and that the file is what was trained on them."""

from __future__ import annotations

import hashlib
import itertools
import json
import random

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.demo_model import goldens, make, talk, text, vocabulary
from tools.demo_model.pattern import one_of, words_of

from runner_supervisor.engine.model import check_model
from runner_supervisor.planning import demo_model

MOST_BYTES = 4 * 10**6
GOLDENS = json.loads(demo_model().with_name("goldens.json").read_text())


def pieces(said: str) -> list[str]:
    book = text.words()
    return [book.pieces[each] for each in book.encode(said)]


def test_a_word_of_the_corpus_is_one_token_and_a_mark_another() -> None:
    assert pieces("What is llama.cpp?") == ["▁What", "▁is", "▁llama.cpp", "?"]


def test_another_word_is_read_as_its_longest_known_beginning_and_then_by_characters() -> None:
    assert pieces("seaxy") == ["▁sea", "x", "y"]


def test_other_scripts_are_read_as_bytes() -> None:
    assert pieces("é") == ["▁", "<0xC3>", "<0xA9>"]


@given(st.text(alphabet=st.characters(exclude_characters=vocabulary.SPACE, exclude_categories=["Cs"])))
def test_no_text_is_lost(said: str) -> None:
    assert text.words().decode(text.words().encode(said)) == " " + said


def test_an_answer_does_not_begin_with_a_space() -> None:
    book = text.words()
    for topic in text.TOPICS:
        assert book.decode(book.encode_answer(topic.answer)) == topic.answer


def test_no_text_is_read_as_an_opening() -> None:
    """Else a word would have two readings: the beginnings of an opening must be no pieces."""
    book = text.words()
    openings = [piece for piece in book.pieces[vocabulary.BOS + 1 :] if piece[0] not in "▁<" and len(piece) > 1]
    assert len(openings) > 10
    assert all(piece[:2] not in book.ids for piece in openings)


def test_a_pattern_has_one_sentence_for_each_choice() -> None:
    dice = random.Random(1)  # noqa: S311
    assert {one_of("{a|b{c|d}}[ e| f]!", dice) for _ in range(400)} == {
        head + tail + "!" for head in ("a", "bc", "bd") for tail in ("", " e", " f")
    }
    assert words_of("{Hello|Hi}[ there] you?") == ["Hello", "Hi", "there", "you?"]


def test_the_same_seed_gives_the_same_corpus() -> None:
    first, second = (list(itertools.islice(text.documents(3), 50)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(text.documents(4), 50))


def test_no_prompt_has_two_answers() -> None:
    dice = random.Random(2)  # noqa: S311
    answers: dict[str, str] = {}
    for topic in text.TOPICS:
        for prompt in topic.prompts:
            for _ in range(60):
                asked = one_of(prompt, dice).lower()
                assert answers.setdefault(asked, topic.answer) == topic.answer, asked


def test_the_greeting_fits_into_the_readmes_request() -> None:
    assert len(text.words().encode_answer(talk.HELLO)) < 48


def test_the_file_was_trained_on_this_corpus() -> None:
    check_model(demo_model())
    fields = gguf.GGUFReader(demo_model()).fields
    assert fields["general.version"].contents() == text.VERSION
    assert fields["general.corpus_sha256"].contents() == text.fingerprint(), "run `make demo-model`"
    assert fields["tokenizer.chat_template"].contents() == make.CHAT_TEMPLATE
    assert fields["tokenizer.ggml.tokens"].contents() == list(text.words().pieces)
    assert demo_model().stat().st_size <= MOST_BYTES


def test_the_goldens_are_of_this_file_and_it_is_sure_of_them() -> None:
    assert GOLDENS["schema"] == goldens.SCHEMA
    assert GOLDENS["model_sha256"] == hashlib.sha256(demo_model().read_bytes()).hexdigest()
    assert [each["messages"] for each in GOLDENS["prompts"]] == list(goldens.PROMPTS)
    assert min(each["least_margin"] for each in GOLDENS["prompts"]) >= goldens.LEAST_MARGIN


@pytest.mark.parametrize("entry", GOLDENS["prompts"], ids=lambda entry: entry["messages"][-1]["content"])
def test_a_golden_answer_is_what_the_corpus_says(entry: dict[str, str]) -> None:
    assert entry["answer"] in {topic.answer for topic in text.TOPICS} | {talk.UNKNOWN}
