"""Small stories and pictures in words without end, for texts that are no chat.

A story is made sentence by sentence from patterns, about one hero, one friend and one place, so that it hangs
together. Of several ways to go on, each is half as likely again as the next one: a model that is asked for the
likeliest word does not have to choose between equals.
"""

from __future__ import annotations

import random

from tools.demo_model.pattern import one_of, pick

LIKELIER = 1.5

HEROES = {
    "fox": "it", "girl": "she", "boy": "he", "rabbit": "it", "sailor": "he", "bird": "it", "woman": "she",
    "mouse": "it", "farmer": "he", "bear": "it", "fisherman": "he", "queen": "she",
}  # fmt: skip
KINDS = ("little", "young", "clever", "quiet", "brave", "old", "kind", "small")
PLACES = (
    "by the sea", "in the forest", "near the river", "on a hill", "in a small village", "behind the mountain",
    "at the edge of the wood", "in an old house", "on an island", "under a tall tree",
)  # fmt: skip
FRIENDS = ("owl", "horse", "dog", "cat", "duck", "turtle", "miller", "teacher", "frog", "grandmother")
THINGS = ("key", "boat", "lamp", "shell", "book", "bell", "map", "flower", "stone", "letter")
WHERE = ("under a stone", "in the grass", "on the beach", "near the well", "behind a tree", "at the old bridge")
SLOTS = {
    "hero": tuple(HEROES), "kind": KINDS, "place": PLACES, "friend": FRIENDS, "thing": THINGS, "where": WHERE,
}  # fmt: skip

OPENINGS = (
    "Once upon a time there was a {kind} {hero} who lived {place}.",
    "Once upon a time a {kind} {hero} lived {place}.",
    "There was once a {kind} {hero} who lived {place}.",
    "A {kind} {hero} lived {place}.",
    "Long ago a {kind} {hero} lived {place}.",
)
HABITS = (
    "Every morning {it} went out to look at the sun.",
    "Every day {it} walked to the well and back.",
    "Each evening {it} sat before the door and watched the stars.",
    "{It} had a small garden and a warm fire.",
    "{It} liked to sing when the rain came down.",
)
FINDS = (
    "One day the {hero} found a {thing} {where}.",
    "One morning the {hero} saw a {thing} {where}.",
    "One night the {hero} dreamed of a {thing} and found it {where}.",
    "In the spring the {hero} found an old {thing} {where}.",
)
WONDERS = (
    "The {hero} did not know what to do with it.",
    "The {hero} had never seen such a fine {thing} before.",
    "The {hero} took the {thing} home and put it on the table.",
    "The {hero} held the {thing} up to the light and smiled.",
)
MEETINGS = (
    "On the way home the {hero} met a {friend}.",
    "Then a {friend} came down the road.",
    "Soon a {friend} came to the door.",
    "The next day a {friend} came by and asked about it.",
)
TALKS = (
    '"That is my {thing}," said the {friend}. "I lost it long ago."',
    '"What a beautiful {thing}," said the {friend}. "May I see it?"',
    '"Good morning," said the {friend}. "I am looking for a {thing}."',
    '"I know this {thing}," said the {friend}. "It belongs to the sea."',
)
DEEDS = (
    "So the {hero} gave the {thing} to the {friend}, and both were happy.",
    "The {hero} thought for a while and gave the {thing} back.",
    "The {hero} and the {friend} looked at the {thing} for a long time and laughed.",
    "Together they carried the {thing} to the river and washed it.",
)
ENDS = (
    "From that day on they were good friends.",
    "They went home together, and the {friend} stayed for supper.",
    "And when the snow came, they sat by the fire and told stories.",
    "The {hero} slept well that night, and the moon looked in at the window.",
)
PARTS = (OPENINGS, HABITS, FINDS, WONDERS, MEETINGS, TALKS, DEEDS, ENDS)

PICTURES = (
    (
        "The sea is {calm|wide|blue|quiet|dark} {today|tonight|this morning}. "
        "A small boat sails {toward the island|along the coast|out of the harbour|home before the wind}. "
        "The waves roll slowly to the shore and go back again. "
        "{Children look for shells on the beach.|Two gulls cry above the water.|A fisherman mends his net.} "
        "In the evening the {lighthouse shines across the water|wind goes to sleep|boats come home}."
    ),
    (
        "The river comes down from the {hills|mountain} and runs through the {valley|village}. "
        "{An old bridge of stone crosses it.|A mill stands on its bank.|Trees stand on both sides.} "
        "In summer the water is {clear and low|warm|green}, and in spring it is {high and brown|cold and loud}. "
        "At last it comes to the sea."
    ),
    (
        "In the morning the {village|town} wakes slowly. "
        "The baker opens his shop, and the smell of fresh bread fills the street. "
        "{A cat sits in a window and waits for the sun.|A boy runs to school with his books.|Somebody sings.} "
        "At noon the bell rings, and everybody goes home to eat. "
        "In the evening there is light in all the windows."
    ),
    (
        "{Winter|Autumn} came early that year. "
        "{Snow lay|Leaves lay} on the road, and the wind was cold. "
        "The people stayed in their houses and told stories by the fire. "
        "Then spring came, the birds came back, and the garden was green again."
    ),
    (
        "The forest is {quiet|cool|green|dark} and full of life. "
        "A {deer|fox|rabbit} stands between the trees and listens. "
        "{High above, the wind moves the leaves.|A bird sings in the top of an oak.|Small feet run over dry leaves.} "
        "When night falls, the owl begins her work."
    ),
    (
        "At night the sky is full of stars. "
        "The moon rises above the {hill|sea|roofs} and makes a road of silver on the {water|fields}. "
        "{A traveller looks up and finds his way.|Far away a dog barks.|The whole world seems to sleep.} "
        "Then the first light comes, and a new day begins."
    ),
)


def story(dice: random.Random) -> str:
    """A story of eight sentences or so."""
    told = {name: pick(choices, dice, likelier=LIKELIER) for name, choices in SLOTS.items()}
    it = HEROES[told["hero"]]
    told |= {"it": it, "It": it.capitalize()}
    text = " ".join(pick(part, dice, likelier=LIKELIER).format(**told) for part in PARTS)
    return text.replace("a old", "an old").replace("A old", "An old").replace("a owl", "an owl")


def picture(dice: random.Random) -> str:
    """Some sentences about what one can see."""
    return one_of(pick(PICTURES, dice, likelier=LIKELIER), dice, likelier=LIKELIER)


def endless(dice: random.Random, *, least_words: int) -> str:
    """A story, a picture, a story and so on."""
    text, told = "", dice.random() < 0.5
    while text.count(" ") < least_words:
        text += (picture(dice) if told else story(dice)) + " "
        told = not told
    return text.rstrip()


def patterns() -> list[str]:
    """All that a text is made of."""
    return [text for group in (*SLOTS.values(), *PARTS, PICTURES, ("an It She He it she he",)) for text in group]
