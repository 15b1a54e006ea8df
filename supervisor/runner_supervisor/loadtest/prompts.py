"""Prompts that no cache has seen: words at random, from the first one on. Pure."""

from __future__ import annotations

from random import Random

TEXT = """
after again air all along always and another around because before below between boat bread bridge bring brother
build call carry change child city clear close cloud cold come country cut dark day deep door down early earth
east eat evening every eye family far farm father field find fire fish five floor flower follow food forest four
friend garden give glass go good grass great green grow hand harbour head hear high hill hold home horse hour
house ice island keep kind know lake land large last late leaf learn leave letter life light listen little long
look love make many market mile mill moon morning mother mountain mouth move music name near never new next
night north number ocean often old once one open orchard other paper path people picture place plant play
question quick quiet rain read red rest river road rock room run sail salt sand school sea second seed shade
ship shore short silver sing sister sky sleep slow small snow song south spring stand star stone story street
summer sun table tell thing think three time town train travel tree turn two under valley village voice walk
wall warm watch water wave west wheel white wide wild wind window winter wood word work world write year yellow
young
"""
WORDS = tuple(TEXT.split())


def prompt(*, words: int, random: Random) -> str:
    """So many words."""
    return " ".join(random.choices(WORDS, k=words))


def words_for(*, tokens: int, words: int, took_tokens: int) -> int:
    """How many words make a prompt of so many tokens, where `words` made one of `took_tokens`."""
    return max(1, round(tokens * words / max(1, took_tokens)))
