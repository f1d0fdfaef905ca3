"""The grammar of asking: each field of a record in fourteen styles."""

from typing import NamedTuple


class Asking(NamedTuple):
    """The grammar of asking for one field; ``{name}``, ``{house}`` and so on are filled in from the record."""

    word: str
    """``"when"``."""
    phrase: str
    """``"in which year"``."""
    inverted: str
    """What follows either in a question: ``"did {name} found the {house}"``."""
    clause: str
    """What follows either in a subordinate clause: ``"{name} founded the {house}"``."""
    noun: str
    """The thing itself: ``"the year in which {name} founded the {house}"``."""
    passive: str
    """A whole question in the passive, or with the object as its subject."""
    in_place: str
    """A whole sentence whose question word stands where the answer would."""


ASKINGS = {
    "name": Asking(
        "who",
        "which person",
        "keeps the {house} in {street}",
        "keeps the {house} in {street}",
        "the keeper of the {house} in {street}",
        "By whom is the {house} in {street} kept?",
        "The {house} in {street} is kept by whom?",
    ),
    "trade": Asking(
        "what trade",
        "which trade",
        "does {name} follow",
        "{name} follows",
        "the trade of {name}",
        "What is {name} known as?",
        "{name} of {street} is what by trade?",
    ),
    "street": Asking(
        "where",
        "in which street",
        "does {name} keep the {house}",
        "{name} keeps the {house}",
        "the street of the {house} of {name}",
        "Where is the {house} kept by {name}?",
        "{name} keeps the {house} in which street?",
    ),
    "founded": Asking(
        "when",
        "in which year",
        "did {name} found the {house}",
        "{name} founded the {house}",
        "the year in which {name} founded the {house}",
        "When was the {house} founded by {name}?",
        "{name} founded the {house} in which year?",
    ),
    "price": Asking(
        "how much",
        "how many crowns",
        "does {name} ask for a {good}",
        "{name} asks for a {good}",
        "the price of a {good} at the {house} of {name}",
        "How much is asked for a {good} by {name}?",
        "{name} asks how much for a {good}?",
    ),
    "opens": Asking(
        "how early",
        "at what hour",
        "does {name} open the {house}",
        "{name} opens the {house}",
        "the hour at which {name} opens the {house}",
        "At what hour is the {house} opened by {name}?",
        "{name} opens the {house} at what hour?",
    ),
}
"""Field of ``Person`` → how to ask for it."""

STYLES = {
    "wh": "{word} {inverted}?",
    "which": "{phrase} {inverted}?",
    "what_is": "what is {noun}?",
    "passive": "{passive}",
    "in_place": "{in_place}",
    "cleft": "{word} {is_was} it that {clause}?",
    "tell_me": "tell me {word} {clause}.",
    "can_you_name": "can you name {noun}?",
    "do_you_know": "do you know {word} {clause}?",
    "i_wonder": "I wonder {word} {clause}.",
    "name": "name {noun}.",
    "polite": "would you kindly say {word} {clause}?",
    "what_about": "and {noun}, what is it?",
    "remind_me": "remind me, please: {phrase} {inverted}?",
}
"""Name of a style → how its question is built from the parts of an ``Asking``."""


def ask(style: str, field: str, words: dict[str, str]) -> str:
    """The question after one field in one style.

    Args:
        style: A key of ``STYLES``.
        field: A key of ``ASKINGS``.
        words: ``name``, ``street``, ``house`` and ``good`` of the person asked about.

    Returns:
        A sentence that begins with a capital and ends with its mark.
    """
    asking = ASKINGS[field]
    parts = {part: text.format(**words) for part, text in asking._asdict().items()}
    text = STYLES[style].format(**parts, is_was="was" if field == "founded" else "is")
    if field == "name":  # a person is somebody, not something
        text = text.replace("what is", "who is")
    return text[0].upper() + text[1:]
