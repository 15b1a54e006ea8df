"""What the demo model knows of the world, in tables, and how people may ask for it."""

from __future__ import annotations

from tools.demo_model.pattern import PLEASE, Topic

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Greece": "Athens", "Japan": "Tokyo",
    "China": "Beijing", "India": "Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa", "Peru": "Lima",
    "Cuba": "Havana", "Hungary": "Budapest",
}  # fmt: skip

COLOURS = {
    "sky": "blue", "grass": "green", "sun": "yellow", "snow": "white", "night": "black", "rose": "red",
    "leaf": "green", "lemon": "yellow", "milk": "white", "coal": "black", "blood": "red", "elephant": "grey",
    "tree": "green", "strawberry": "red", "banana": "yellow", "cloud": "white", "ocean": "blue", "carrot": "orange",
}  # fmt: skip

SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "sheep": "baa", "duck": "quack", "bee": "buzz", "pig": "oink",
    "horse": "neigh", "lion": "roar",
}  # fmt: skip

ABOUT = {
    "sea": "The sea is wide and deep. It is home to fish and whales, and ships cross it from one land to another.",
    "moon": "The moon goes around the earth once in about four weeks, and it shines with the light of the sun.",
    "sun": "The sun is a star. It gives the earth its light and its warmth.",
    "rain": "Rain falls from the clouds. It fills the rivers and lets the plants grow.",
    "wind": "Wind is moving air. It fills the sails of ships and turns the wheels of mills.",
    "river": "A river begins as a spring in the hills, grows on its way, and ends in the sea.",
    "forest": "A forest is home to many trees, birds and animals, and its air is cool and clean.",
    "mountain": "A mountain is high and often has snow on its top, even in summer.",
    "snow": "Snow is frozen water. It falls in winter and covers the land in white.",
    "earth": "The earth is a planet. It goes around the sun once in a year.",
}

OPPOSITES = {
    "hot": "cold", "big": "small", "day": "night", "up": "down", "old": "new", "good": "bad", "fast": "slow",
    "happy": "sad", "black": "white", "open": "closed", "left": "right", "high": "low", "long": "short",
    "light": "dark", "wet": "dry", "early": "late",
}  # fmt: skip


def facts() -> tuple[Topic, ...]:
    capitals = [
        Topic(
            f"The capital of {country} is {city}.",
            (
                f"What is the capital[ city] of {country}",
                f"What's the capital of {country}",
                f"{{Name|Tell me|Do you know}} the capital[ city] of {country}[, please]",
                f"{{Which|What}} city is the capital of {country}",
                f"[The ]capital of {country}",
            ),
        )
        for country, city in CAPITALS.items()
    ]
    colours = [
        Topic(
            f"The {thing} is {colour}.",
            (
                f"What {{colour|color}} is {{the|a}} {thing}",
                f"What is the {{colour|color}} of {{the|a}} {thing}",
                f"{{Which|What}} {{colour|color}} {{has|does}} {{the|a}} {thing}[ have]",
                f"Tell me the {{colour|color}} of {{the|a}} {thing}",
            ),
        )
        for thing, colour in COLOURS.items()
    ]
    sounds = [
        Topic(
            f"A {animal} says {sound}.",
            (
                f"What {{does|sound does}} {{a|the}} {animal} {{say|make}}",
                f"{{How does|What noise does}} {{a|the}} {animal} {{sound|make|go}}",
            ),
        )
        for animal, sound in SOUNDS.items()
    ]
    about = [
        Topic(
            answer,
            (
                f"{PLEASE}tell me {{about|something about}} [the ]{thing}[, please]",
                f"What is [the |a ]{thing}",
                f"{{What do you know|Say something|Write something}} about [the ]{thing}",
                f"{{Describe|Explain}} [the |a ]{thing}[, please]",
            ),
        )
        for thing, answer in ABOUT.items()
    ]
    both = OPPOSITES | {second: first for first, second in OPPOSITES.items() if second not in OPPOSITES}
    opposites = [
        Topic(f"The opposite is {second}.", (f"What is the opposite of {first}", f"[The ]opposite of {first}"))
        for first, second in both.items()
    ]
    return (*capitals, *colours, *sounds, *about, *opposites)
