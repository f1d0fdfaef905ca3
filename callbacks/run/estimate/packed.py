"""From lengths of rows to what a stage reads in packed rows: each prompt once, its responses behind it.  Pure."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from callbacks.run.estimate.memory import Batch
from callbacks.run.estimate.models import Reading
from callbacks.run.estimate.tokens import SEED, Reads, Sequences
from datamodules.packing import fill_rows

DRAWS = 64
"""Batches, at least, among which the largest is looked for."""


class LaidOut(NamedTuple):
    """A batch as a model reads it."""

    batch: Batch
    scores: float
    """Pairs of query and key."""


def lay_out(rows: Sequence[Sequences], reading: Reading, token_budget: int | None) -> LaidOut:
    """A batch of prompts with their responses, as ``lightning_modules/packing.py`` has it read.

    Args:
        rows: Of the batch.
        reading: Of the model; a sequence longer than its window has the whole batch padded.
        token_budget: Tokens a packed row; None: one row.
    """
    responses = [response for row in rows for response in row.responses]
    longest, predicted = max(row.longest for row in rows), sum(responses)
    if reading.attention is None or longest > reading.window:
        return LaidOut(Batch(len(responses), longest, predicted), float(len(responses) * longest**2))
    if reading.attention == "flash":  # each response behind its own copy of its prompt, in one row
        alone = [row.prompt + response for row in rows for response in row.responses]
        return LaidOut(Batch(1, sum(alone), predicted, packed="flash"), float(sum(n**2 for n in alone)))
    sizes = [row.tokens for row in rows]
    if reading.attention == "dense":
        width = max(sizes)
        return LaidOut(Batch(len(rows), width, predicted, packed="dense"), float(len(rows) * width**2))
    filled = fill_rows(sizes, sum(sizes) if token_budget is None else token_budget)
    width = max(sum(sizes[item] for item in row) for row in filled)
    later = [(row.prompt, response) for row in rows for response in row.responses[1:]]
    masked = sum(response * (prompt + response) for prompt, response in later)
    blocks = reading.attention == "blocks"
    batch = Batch(
        rows=len(filled),
        length=width,
        predicted=predicted,
        packed=reading.attention,
        copied=sum(prompt + response for prompt, response in later) if blocks else 0,
        masked=masked if blocks else 0,
    )
    return LaidOut(batch, float(sum((row.prompt + row.responses[0]) ** 2 for row in rows) + masked))


def packed(
    rows: Sequence[Sequences],
    count: int,
    batch_size: int,
    reading: Reading,
    *,
    token_budget: int | None = None,
    by_length: bool = False,
    window: int = 1,
) -> Reads:
    """What it takes to read ``count`` rows like these in packed batches.

    The largest batch is the largest of those of one pass, and of at least ``DRAWS`` at random: without padding it is
    not the longest row that makes it.

    Args:
        rows: All rows, or a sample of them.
        count: How many there are.
        batch_size: Rows a batch.
        reading: Of the model.
        token_budget: See ``lay_out``.
        by_length: Batches are of rows of like length, as when scoring; else of a random order.
        window: Batches whose rows are sorted by length among them.
    """
    generator, order = random.Random(SEED), list(rows)
    generator.shuffle(order)
    batch_size = min(batch_size, count)
    if by_length:
        order.sort(key=_tokens, reverse=True)
    elif window > 1:
        span = window * batch_size
        order = [
            row for start in range(0, len(order), span) for row in sorted(order[start : start + span], key=_tokens)
        ]
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    laid = [lay_out(group, reading, token_budget) for group in groups]
    scale = count / len(order)
    seen = list(laid)
    if not by_length:
        span = max(batch_size, min(window * batch_size, len(order)))
        drawn = (_draw(generator, order, span) for _ in range(DRAWS - len(laid)))
        seen += [lay_out(sorted(rows, key=_tokens)[-batch_size:], reading, token_budget) for rows in drawn]
    return Reads(
        rows=count,
        batches=count / batch_size,
        tokens=scale * sum(one.batch.tokens for one in laid),
        filled=scale * sum(row.tokens for row in order),
        scores=scale * sum(one.scores for one in laid),
        predicted=scale * sum(one.batch.predicted for one in laid),
        largest=max((one.batch for one in seen), key=lambda batch: (batch.tokens, batch.predicted)),
    )


def _tokens(row: Sequences) -> int:
    return row.tokens


def _draw(generator: random.Random, rows: Sequence[Sequences], size: int) -> list[Sequences]:
    """Rows at random; of a sample smaller than that, some rows twice."""
    whole, rest = divmod(size, len(rows))
    return [*(list(rows) * whole), *generator.sample(list(rows), rest)]
