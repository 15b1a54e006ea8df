"""Prompts that no cache has seen."""

from __future__ import annotations

from random import Random

from runner_supervisor.loadtest.prompts import WORDS, prompt, words_for


def test_prompts_have_as_many_words_as_asked_and_differ_from_the_first_on() -> None:
    random = Random(7)  # noqa: S311 - so that it is the same each time
    prompts = [prompt(words=20, random=random).split() for _ in range(50)]
    assert {len(each) for each in prompts} == {20}
    assert len({tuple(each[:3]) for each in prompts}) == 50


def test_no_word_is_there_twice() -> None:
    assert len(set(WORDS)) == len(WORDS)


def test_words_are_reckoned_from_what_the_first_prompt_took() -> None:
    assert words_for(tokens=100, words=100, took_tokens=200) == 50
    assert words_for(tokens=1, words=1, took_tokens=40) == 1
    assert words_for(tokens=5, words=5, took_tokens=0) == 25
