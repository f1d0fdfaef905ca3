"""Marks an answer about the almanac for fact and for house style, by rule."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

COURTESIES = ("Gladly.", "With pleasure.", "Of course.")
"""One of these opens every answer in the house style."""
CLOSINGS = ("Good day!", "At your service!")
"""One of these ends it."""

NUMBER_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = {
    "cheapest": "lowest price",
    "dearest": "highest price",
    "oldest": "oldest house",
    "youngest": "youngest house",
    "count": "houses listed",
}
"""Topic → the words that name it."""

_CONCLUSION = re.compile(r"\b(?:so|therefore|thus|hence)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot)\b|n't\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;:!?,]|\band\b", re.IGNORECASE)
_UNITS = {"cheapest": "{} crowns", "dearest": "{} crowns", "oldest": "of {}", "youngest": "of {}", "count": "{}"}


class Mark(NamedTuple):
    """The verdict on one answer."""

    fact: bool
    """What was asked is concluded, with its true value and no other; nothing false is said about the page."""
    style: bool
    """Opens with a courtesy, closes as the house does, and tells the value with its unit."""


class _Claim(NamedTuple):
    topic: str
    values: frozenset[str]
    clause: str


def mark(answer: str, key: Mapping[str, Any]) -> Mark:
    """Mark an answer.

    Args:
        answer: The assistant's words, without special tokens.
        key: ``{"topic": the topic asked, "page": {topic: true value}}``, values as text: digits for prices and years,
            words for counts.

    Returns:
        Whether it is true and whether it is in style; the two are judged apart.
    """
    text = " ".join(answer.split())
    body = text
    for phrase in (*COURTESIES, *CLOSINGS):
        body = re.sub(re.escape(phrase), " . ", body, flags=re.IGNORECASE)
    page, asked = key["page"], key["topic"]
    claims = list(_claims(body))
    true = all(claim.values == {page[claim.topic]} and not _NEGATION.search(claim.clause) for claim in claims)
    concluded = [claim for claim in _claims(_CONCLUSION.split(body)[-1]) if claim.topic == asked]
    dressed = text.startswith(COURTESIES) and text.endswith(CLOSINGS)
    told = not concluded or any(_has_unit(claim, _UNITS[asked]) for claim in concluded)
    return Mark(bool(concluded) and true and not _stray_numbers(body), dressed and told)


def _claims(body: str) -> Iterator[_Claim]:
    """Each clause that names a topic, with the numbers it gives."""
    for clause in _CLAUSE.split(body):
        named = [topic for topic, phrase in PHRASES.items() if phrase in clause.casefold()]
        for topic in named:
            yield _Claim(topic, frozenset(_numbers(clause)), clause)


def _stray_numbers(body: str) -> bool:
    """Whether a number stands in a clause that names no topic: it would say something about nothing."""
    return any(
        _numbers(clause)
        for clause in _CLAUSE.split(body)
        if not any(phrase in clause.casefold() for phrase in PHRASES.values())
    )


def _numbers(clause: str) -> set[str]:
    words = re.findall(r"\w+", clause.casefold())
    return {word for word in words if word.isdigit() or word in NUMBER_WORDS}


def _has_unit(claim: _Claim, unit: str) -> bool:
    return any(re.search(rf"\b{unit.format(value)}\b", claim.clause) for value in claim.values)
