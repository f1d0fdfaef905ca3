"""What a visitor can ask about a page of the almanac, and what is true of it.

Questions are about the page as a whole (its lowest price, its oldest house, how many it lists), because these a tiny
model learns from nothing within a minute; to tell whose price it is it would have to learn to copy names first.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from datamodules.almanac.records import Person
from datamodules.almanac.vocabulary import COUNT_WORDS


class Topic(NamedTuple):
    """Something that can be asked of any page."""

    phrase: str
    """What it is called, in question and answer, e.g. ``"lowest price"``."""
    value: Callable[[Sequence[Person]], str]
    """What is true of a page, as an answer says it."""
    statement: str
    """The answer in a clause, with a place for the value."""
    questions: tuple[str, ...]
    """Ways of asking."""


def _superlative(phrase: str, field: str, pick: Callable, statement: str) -> Topic:
    asked = (f"What is the {phrase}?", f"Which is the {phrase}?")
    return Topic(phrase, lambda page: str(pick(getattr(one, field) for one in page)), statement, asked)


TOPICS = {
    "cheapest": _superlative("lowest price", "price", min, "the lowest price is {} crowns"),
    "dearest": _superlative("highest price", "price", max, "the highest price is {} crowns"),
    "oldest": _superlative("oldest house", "founded", min, "the oldest house is of {}"),
    "youngest": _superlative("youngest house", "founded", max, "the youngest house is of {}"),
    "count": Topic(
        "houses listed",
        lambda page: COUNT_WORDS[len(page)],
        "the houses listed are {}",
        ("How many are the houses listed?", "How many are listed?"),
    ),
}


class Question(NamedTuple):
    """A question about a page, with its true answer."""

    text: str
    """As the visitor says it."""
    topic: str
    """A key of ``TOPICS``."""
    value: str
    """What is true: a number, in digits for prices and years, in words for counts."""


def ask(rng: random.Random, page: Sequence[Person], name: str, follows: bool = False) -> Question:
    """Ask for a topic of a page; ``follows`` makes it a follow-up to another question."""
    topic = TOPICS[name]
    text = f"And the {topic.phrase}?" if follows else rng.choice(topic.questions)
    return Question(text, name, topic.value(page))


def truths(page: Sequence[Person]) -> dict[str, str]:
    """Topic → what is true of the page."""
    return {name: topic.value(page) for name, topic in TOPICS.items()}
