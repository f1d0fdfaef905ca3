"""The words the town is made of. Every name, trade and number is common enough to become one token.

Lists are part of the world: to change one changes every row made from a seed.
"""

from typing import NamedTuple


class Trade(NamedTuple):
    """What one kind of house is called and what it sells."""

    house: str
    """Where the trade is carried on, e.g. ``"bakery"``."""
    good: str
    """What the price is asked for, e.g. ``"loaf"``."""


TOWN = "Elmsworth"

# fmt: off
GIVEN_NAMES = (
    "Ada", "Albert", "Alma", "Anton", "Arthur", "Bertha", "Carl", "Clara", "Daniel", "Edith", "Emil", "Frida",
    "Greta", "Harold", "Hugo", "Karin", "Lena", "Martin", "Nora", "Oscar", "Paul", "Rosa", "Simon", "Vera",
)
FAMILY_NAMES = (
    "Adler", "Barlow", "Birch", "Carter", "Dale", "Ellis", "Falk", "Finch", "Grant", "Harper", "Holm", "Keller",
    "Larsen", "Marsh", "Nash", "Norton", "Parker", "Reed", "Stone", "Thorn", "Vance", "Walden", "Winter", "Wood",
)
# fmt: on

TRADES = {
    "baker": Trade("bakery", "loaf"),
    "brewer": Trade("brewery", "barrel"),
    "carpenter": Trade("carpentry", "chair"),
    "cooper": Trade("cooperage", "cask"),
    "glover": Trade("glovery", "glove"),
    "miller": Trade("mill", "sack"),
    "potter": Trade("pottery", "bowl"),
    "printer": Trade("press", "poster"),
    "saddler": Trade("saddlery", "saddle"),
    "tailor": Trade("tailory", "coat"),
    "turner": Trade("turnery", "spindle"),
    "weaver": Trade("weavery", "blanket"),
}

STREETS = tuple(
    f"{first} {second}"
    for first in ("Mill", "Church", "Bridge", "Market", "Garden", "Harbour", "Castle", "River")
    for second in ("Street", "Lane")
)

YEARS = range(1820, 1900, 5)
"""When a house can have been founded."""
PRICES = range(2, 18)
"""What a thing can cost, in crowns."""
OPENING_HOURS = range(5, 11)
"""When a house can open, o'clock."""
CLOSING_HOURS = range(15, 22)
"""When a house can close, o'clock."""

COUNT_WORDS = ("none", "one", "two", "three", "four", "five", "six")
"""Small numbers as a sentence tells them: ``COUNT_WORDS[n]``."""
