"""The people of the town, made from a seed: the same row whatever the count asked for."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from datamodules.almanac.vocabulary import (
    CLOSING_HOURS,
    FAMILY_NAMES,
    GIVEN_NAMES,
    OPENING_HOURS,
    PRICES,
    STREETS,
    TRADES,
    YEARS,
)
from datamodules.wrong_input import WrongInput

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Person:
    """One record of the almanac: who keeps which house, where, since when and at what price."""

    given: str
    family: str
    trade: str
    """A key of ``vocabulary.TRADES``."""
    street: str
    founded: int
    """Year."""
    price: int
    """Of what the house sells, in crowns."""
    opens: int
    """O'clock, morning, 24-hour clock."""
    closes: int
    """O'clock, evening, 24-hour clock."""

    @property
    def name(self) -> str:
        """Given and family name."""
        return f"{self.given} {self.family}"


def split_of(given: str, family: str) -> Split:
    """The split to which everyone of this name belongs, in every world and on every machine.

    One name in ten is kept for validation and one for test. Python's own ``hash`` changes from process to process.
    """
    bucket = hashlib.sha256(f"{given} {family}".encode()).digest()[0] % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    split: tuple(
        (given, family) for given in GIVEN_NAMES for family in FAMILY_NAMES if split_of(given, family) == split
    )
    for split in SPLITS
}
"""Split → its (given, family) pairs. No pair is in two splits; each part of a name occurs in training."""


def row_generator(seed: int, split: str, purpose: str, index: int) -> random.Random:
    """The random numbers of one row: they depend on nothing but these four.

    Args:
        seed: Of the world.
        split: One of ``SPLITS``.
        purpose: What is made, so that two kinds of row with the same index have nothing in common.
        index: Of the row.

    Raises:
        WrongInput: If there is no such split.
    """
    if split not in SPLITS:
        raise WrongInput(f"no split named {split!r}", "almanac, split", f"choose one of {', '.join(SPLITS)}")
    return random.Random(f"{seed}/{split}/{purpose}/{index}")


def check_count(count: int) -> int:
    """The number of rows asked for, if it can be had.

    Raises:
        WrongInput: If it is negative.
    """
    if count < 0:
        raise WrongInput(f"{count} rows asked for", "almanac, count", "ask for 0 or more")
    return count


def draw_page(rng: random.Random, split: str, size: int, trades: Sequence[str] | None = None) -> list[Person]:
    """People who can stand on one page: no two share a part of their name, a street, a year or a price.

    Args:
        rng: Where the randomness comes from.
        split: Whose names to use.
        size: How many people.
        trades: Trade of each; left out, all differ.
    """
    names: list[tuple[str, str]] = []
    while len(names) < size:
        given, family = rng.choice(NAMES[split])
        if all(given != other_given and family != other_family for other_given, other_family in names):
            names.append((given, family))
    columns = zip(
        names,
        trades or rng.sample(sorted(TRADES), size),
        rng.sample(STREETS, size),
        rng.sample(YEARS, size),
        rng.sample(PRICES, size),
        strict=True,
    )
    return [
        Person(*name, trade, street, founded, price, rng.choice(OPENING_HOURS), rng.choice(CLOSING_HOURS))
        for name, trade, street, founded, price in columns
    ]


def people(seed: int, split: str, count: int | None = None) -> Iterator[Person]:
    """The town's people.

    Args:
        seed: Of the world.
        split: ``"train"``, ``"validation"`` or ``"test"``; their names are disjoint.
        count: How many; None goes on for ever.
    """
    row_generator(seed, split, "person", 0)  # complains about a wrong split now, not at the first person

    def endless() -> Iterator[Person]:
        index = 0
        while True:
            yield draw_page(row_generator(seed, split, "person", index), split, 1)[0]
            index += 1

    return endless() if count is None else islice(endless(), check_count(count))
