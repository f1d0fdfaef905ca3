"""Shares of a data set's rows, for the rounds of a training that takes each row in one of them."""

import random
from collections.abc import Iterator
from typing import Any

from datamodules.pairs import RowSource, open_rows, source_name
from datamodules.wrong_input import WrongInput


class RowShare:
    """One of several equal shares of a source's rows, which are disjoint and make the whole.

    Of every ``of`` rows that follow one another each share has one, drawn: so all shares look alike however the rows
    are ordered, and none is larger than another by more than a row. Rows keep their order, and their place as ``id``.

    Args:
        data: Whose rows.
        number: Which share, from 1.
        of: How many there are.
        seed: Of the draws; the same for all shares of one whole.

    Raises:
        WrongInput: No such share.
    """

    def __init__(self, data: RowSource, number: int, of: int, seed: int = 0):
        if not 1 <= number <= of:
            raise WrongInput(f"there is no share {number} of {of}", "number", f"1 to {of}")
        self.data, self.number, self.of, self.seed = data, number, of, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Its rows; the same in each pass.

        Raises:
            WrongInput: It has none.
        """
        generator, owners, empty = random.Random(self.seed), list[int](), True
        for row in open_rows(self.data):
            owners = owners or generator.sample(range(1, self.of + 1), self.of)
            if owners.pop() == self.number:
                empty = False
                yield {**row.fields, "id": row.place}
        if empty:
            what = f"share {self.number} of {self.of} has no row"
            raise WrongInput(what, source_name(self.data), "set fewer rounds=, or give more rows")
