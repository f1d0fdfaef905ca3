"""From lengths of rows to what a stage reads in padded rows, padding included.  Pure.  Packed rows: ``packed.py``."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from callbacks.run.estimate.memory import Batch

SEED = 0


class Sequences(NamedTuple):
    """What a stage reads at one time of one row: one sequence, or the two of a pair."""

    prompt: int
    responses: tuple[int, ...]
    """Tokens, end of turn included; each after the same prompt."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt + max(self.responses)

    @property
    def tokens(self) -> int:
        """Of the prompt, once, and all responses."""
        return self.prompt + sum(self.responses)


class Reads(NamedTuple):
    """One pass over the rows."""

    rows: float
    batches: float
    tokens: float
    """Padding included."""
    filled: float
    """Without it."""
    scores: float
    """Pairs of query and key: Σ L² over sequences of padded length L."""
    predicted: float
    """Response tokens."""
    largest: Batch
    """The largest micro-batch; padded: the longest row pads all."""

    def times(self, factor: float) -> "Reads":
        """So many passes, or such a share of one."""
        rows, batches, tokens, filled, scores, predicted = (factor * value for value in self[:6])
        return Reads(rows, batches, tokens, filled, scores, predicted, self.largest)


def padded(
    rows: Sequence[Sequences], count: int, batch_size: int, *, by_length: bool = False, window: int = 1
) -> Reads:
    """What it takes to read ``count`` rows like these in batches that are padded to their longest sequence.

    Args:
        rows: All rows, or a sample of them.
        count: How many there are.
        batch_size: Rows a batch.
        by_length: Batches are of rows of like length, as when scoring; else of a random order.
        window: Batches whose rows are sorted by length among them.
    """
    order = list(rows)
    random.Random(SEED).shuffle(order)
    batch_size = min(batch_size, count)
    if by_length:
        order.sort(key=lambda row: -row.longest)
    elif window > 1:
        size = window * batch_size
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        order = [row for piece in pieces for row in sorted(piece, key=lambda row: row.tokens)]
    # A sample in batches of the same size has the same padding only if rows are not more alike than in all of them.
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    tokens = scores = 0.0
    for group in groups:
        length = max(row.longest for row in group)
        sequences = sum(len(row.responses) for row in group)
        tokens += sequences * length
        scores += sequences * length**2
    filled = sum(row.prompt * len(row.responses) + sum(row.responses) for row in order)
    predicted = sum(sum(row.responses) for row in order)
    scale = count / len(order)
    longest, answers = max(row.longest for row in order), max(len(row.responses) for row in order)
    heaviest = sorted((sum(row.responses) for row in order), reverse=True)[:batch_size]
    largest = Batch(
        rows=batch_size * answers,
        length=longest,
        predicted=round(sum(heaviest) * batch_size / len(heaviest)),
        padded=len({row.prompt + r for row in order for r in row.responses}) > 1,
    )
    return Reads(count, count / batch_size, tokens * scale, filled * scale, scores * scale, predicted * scale, largest)
