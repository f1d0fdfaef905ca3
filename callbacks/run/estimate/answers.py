"""Lengths of answers, those in the data and those that are still to be sampled."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from callbacks.run.estimate.reading import Reader
from callbacks.run.estimate.row_lengths import Rows, whole_of
from callbacks.run.estimate.tokens import Sequences
from datamodules.wrong_input import WrongInput


class Answered(NamedTuple):
    """Rows of prompts with their answers."""

    rows: list[Sequences]
    longest: int | None
    """Tokens that a sequence may have where answers are still to be sampled."""
    assumed: tuple[str, ...]
    """What had to be."""


def answered(
    reader: Reader,
    source: Any,
    rows: Rows,
    fields: tuple[str, ...],
    max_length: int,
    asked: Mapping[str, Any] | None = None,
) -> Answered:
    """Rows with the lengths of their answers: what the data have, else what the stage that samples them may make.

    Args:
        reader: Of the run.
        source: The rows' file, Hub id or maker.
        rows: Its rows.
        fields: Which answers: ``chosen``, ``rejected``, ``completion``.
        max_length: Tokens of prompt and answer.
        asked: The config of the stage that samples them; None: the stage that makes the source.

    Raises:
        WrongInput: There are none, and no stage that samples them.
    """
    lacking = [field for field in fields if any(field not in row.answers for row in rows.lengths)]
    if not lacking:
        made = [Sequences(row.prompt, tuple(row.answers[field] for field in fields)) for row in rows.lengths]
        return Answered(made, None, ())
    sampled, source = asked, whole_of(source)
    if sampled is None and isinstance(source, str) and (stage := reader.maker(source)):
        sampled = reader.stage(stage)
    if sampled is None and not rows.assumed:
        where = source if isinstance(source, str) else "the rows given"
        raise WrongInput(f"its rows have no `{lacking[0]}`", where, "give it, or run the stage that samples it first")
    most = max_length if sampled is None else max(max_new(sampled, field) for field in lacking)
    mean = min(reader.settings.response_tokens or max(1, most // 2), most)
    made = [
        Sequences(
            row.prompt, tuple(row.answers.get(field, max(1, min(mean, max_length - row.prompt))) for field in fields)
        )
        for row in rows.lengths
    ]
    longest = min(max_length, max(row.prompt for row in rows.lengths) + most)
    return Answered(made, longest, (f"answers of {mean} tokens, {most} at most",))


def max_new(stage: Mapping[str, Any], name: str) -> int:
    """The largest number of tokens that a sampling stage lets a model answer."""
    how = stage["module"]["sampling"]
    return (how if "max_new_tokens" in how else how[name])["max_new_tokens"]
