"""Passages about the town with questions in many styles, for question generation and question answering.

A row, whose answer is always ``context[answer_start : answer_start + len(answer)]``::

    {"id": "almanac-test-17", "context": "Ada Holm, a baker in Mill Lane, founded the bakery in 1875, ...",
     "question": "In which year did Ada Holm found the bakery?", "answer": "1875", "answer_start": 54, "style": "which"}
"""

import string
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.almanac.askings import ASKINGS, STYLES, ask
from datamodules.almanac.records import Person, check_count, draw_page, row_generator
from datamodules.almanac.vocabulary import TRADES
from datamodules.wrong_input import WrongInput

MOST_SENTENCES = 6

SENTENCES = (
    "{name}, a {trade} in {street}, founded the {house} in {founded}, opens it at {opens} o'clock and asks {price} "
    "crowns for a {good}.",
    "In {street} the {trade} {name} has kept a {house} since {founded}, opens at {opens} o'clock and sells a {good} "
    "for {price} crowns.",
    "Since {founded} {name} has worked as a {trade}; the {house} in {street} opens at {opens} o'clock and a {good} "
    "costs {price} crowns.",
)
"""Ways of telling one record. Each tells every field that can be asked for, once."""


class Told(NamedTuple):
    """A sentence with the places of what it tells."""

    text: str
    starts: dict[str, int]
    """Field → offset of its value in ``text``, in characters."""


def tell(pattern: str, person: Person) -> Told:
    """Fill in a sentence and note where each field went.

    Args:
        pattern: One of ``SENTENCES``.
        person: Whose record is told.
    """
    words = words_of(person)
    text, starts = "", {}
    for literal, field, _, _ in string.Formatter().parse(pattern):
        text += literal
        if field is not None:
            starts[field] = len(text)
            text += words[field]
    return Told(text, starts)


def words_of(person: Person) -> dict[str, str]:
    """Every field of the record as it is written, and the house and good of the trade."""
    trade = TRADES[person.trade]
    told = {field: str(getattr(person, field)) for field in ("name", "trade", "street", "founded", "price", "opens")}
    return told | {"house": trade.house, "good": trade.good}


def passage(seed: int, split: str, index: int, sentences: int) -> dict[str, Any]:
    """Row ``index`` of the endless table that seed, split and number of sentences stand for."""
    rng = row_generator(seed, split, f"passage/{sentences}", index)
    page = draw_page(rng, split, sentences)
    told = [tell(rng.choice(SENTENCES), person) for person in page]
    asked, field, style = rng.randrange(sentences), rng.choice(sorted(ASKINGS)), rng.choice(sorted(STYLES))
    words = words_of(page[asked])
    before = sum(len(sentence.text) + 1 for sentence in told[:asked])
    return {
        "id": f"almanac-{split}-{index}",
        "context": " ".join(sentence.text for sentence in told),
        "question": ask(style, field, words),
        "answer": words[field],
        "answer_start": before + told[asked].starts[field],
        "style": style,
    }


def passages(
    seed: int, split: str, count: int, sentences: int = 1, fewest: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows 0 to ``count - 1``, each a passage with one question about one of its people.

    Args:
        seed: Of the world.
        split: ``"train"``, ``"validation"`` or ``"test"``: their people are disjoint.
        count: How many rows.
        sentences: In a passage; each tells the record of another person.
        fewest: Passages of this many to ``sentences`` sentences in turn: what short ones teach helps with long ones.
            Default: all have ``sentences``.

    Returns:
        An iterator over rows as in the module's docstring.

    Raises:
        WrongInput: If an argument is none of these.
    """
    if not 1 <= sentences <= MOST_SENTENCES:
        raise WrongInput(f"passages of {sentences} sentences", "almanac, sentences", f"choose 1 to {MOST_SENTENCES}")
    fewest = sentences if fewest is None else fewest
    if not 1 <= fewest <= sentences:
        raise WrongInput(
            f"passages of {fewest} to {sentences} sentences", "almanac, fewest", f"choose 1 to {sentences}"
        )
    lengths = range(fewest, sentences + 1)
    row_generator(seed, split, "passage", 0)  # complains about a wrong split now, not at the first row
    return (passage(seed, split, index, lengths[index % len(lengths)]) for index in range(check_count(count)))
