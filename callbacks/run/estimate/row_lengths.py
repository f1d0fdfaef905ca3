"""Rows of a source as lengths in tokens: of its prompts, and of the answers that it has."""

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from datamodules.encoding import encode_prompt, encode_response
from datamodules.pairs import open_rows, read_prompt, read_response
from datamodules.rows import Row, check_messages

ANSWERS = ("chosen", "rejected", "completion")
SHARE = "datamodules.shares.RowShare"


class Lengths(NamedTuple):
    """Tokens of a prompt and of the answers that its row has."""

    prompt: int
    answers: dict[str, int]


class Rows(NamedTuple):
    """A source's rows: all lengths or a sample of them, and what had to be assumed."""

    lengths: list[Lengths]
    count: int
    assumed: tuple[str, ...] = ()


def whole_of(source: Any) -> Any:
    """What the source is a share of (``datamodules/shares.py``), or the source itself."""
    shared = isinstance(source, Mapping) and source.get("_target_") == SHARE
    return source["data"] if shared else source


def sampled(source: Any, most: int) -> tuple[list[Row], int]:
    """A sample of the rows from a seed, with the longest by characters, and how many there are."""
    generator, kept, count = random.Random(0), [], 0
    longest: list[tuple[int, int, Row]] = []
    for count, row in enumerate(open_rows(source), start=1):
        if len(kept) < most:
            kept.append(row)
        elif (place := generator.randrange(count)) < most:
            kept[place] = row
        longest = sorted([*longest, (len(str(row.fields)), count, row)])[-8:]
    if count > most:
        places = {row.place for row in kept}
        kept += [row for _, _, row in longest if row.place not in places]
    return kept, count


def lengths_of(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Lengths]:
    """Of one row: of a conversation, a prompt and its answer for each of the assistant's turns."""
    if row.fields.get("messages") is not None:
        turns = check_messages(row.fields["messages"], row.place, "messages", last="assistant")
        made = [
            encode_response(tokenizer, turns[:i], turn["content"], row.place, max_length)
            for i, turn in enumerate(turns)
            if turn["role"] == "assistant"
        ]
        return [Lengths(one.prompt_length, {"completion": len(one.ids) - one.prompt_length}) for one in made]
    prompt = read_prompt(row)
    start = len(encode_prompt(tokenizer, prompt, row.place, max_length))
    answers = {}
    for field in ANSWERS:
        if row.fields.get(field):
            text = read_response(row, field, prompt)
            answers[field] = len(encode_response(tokenizer, prompt, text, row.place, max_length).ids) - start
    return [Lengths(start, answers)]
