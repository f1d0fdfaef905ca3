"""Preference rows in TRL's formats, checked and encoded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from datamodules.encoding import EncodedResponse, Prompt, encode_prompt, encode_response
from datamodules.other_tokenizer import in_other_tokens
from datamodules.rows import Row, check_messages, read_rows
from datamodules.wrong_input import WrongInput

RowSource = str | Iterable[dict[str, Any]]
"""A file or Hub id, or rows made in process."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One prompt with its chosen and rejected response."""

    chosen: EncodedResponse
    rejected: EncodedResponse
    for_teacher: "EncodedPair | None" = None
    """The same texts in the tokens of a teacher with a tokenizer of its own; None: the same tokens."""

    def read_by(self, name: str) -> "EncodedPair":
        """The pair as the ``reference`` or the ``teacher`` reads it."""
        return self.for_teacher if name == "teacher" and self.for_teacher is not None else self

    @property
    def truncated(self) -> bool:
        """Whether a response was cut."""
        return self.chosen.truncated or self.rejected.truncated

    @property
    def responses(self) -> tuple[EncodedResponse, EncodedResponse]:
        """Chosen and rejected."""
        return self.chosen, self.rejected


def source_name(source: RowSource) -> str:
    """Names a source in messages."""
    return source if isinstance(source, str) else "the rows given"


def open_rows(source: RowSource) -> Iterator[Row]:
    """Rows of a file or Hub id, or rows made in process, whose place is their ``id``."""
    if isinstance(source, str):
        return read_rows(source)
    return (Row(str(fields.get("id", f"row {n}")), fields) for n, fields in enumerate(source, start=1))


def read_prompt(row: Row) -> Prompt:
    """The row's prompt: text, or turns that end with the user's.

    Raises:
        WrongInput: There is none, or its roles are out of order.
    """
    prompt = row.fields.get("prompt")
    if prompt is None or prompt == [] or (isinstance(prompt, str) and not prompt.strip()):
        raise WrongInput("the row has no `prompt`", row.place, "each row needs one (text or turns)")
    if isinstance(prompt, str):
        return prompt
    return check_messages(prompt, row.place, "prompt", last="user")


def read_response(row: Row, field: str, prompt: Prompt) -> str:
    """The text of a response in the prompt's own kind: text to a text prompt, one assistant turn to turns.

    Raises:
        WrongInput: There is none, it is empty, or of the other kind.
    """
    value = row.fields.get(field)
    if value is None:
        raise WrongInput(f"the row has no `{field}`", row.place, "fill it in, or run the stage that samples it")
    if isinstance(prompt, str) != isinstance(value, str):
        raise WrongInput(
            f"`prompt` and `{field}` are of two kinds", row.place, "write both as text or both as lists of turns"
        )
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and len(value) > 1:
        raise WrongInput(f"`{field}` has {len(value)} turns", row.place, "move all but the answer into `prompt`")
    else:
        text = check_messages(value, row.place, field, first="assistant", last="assistant")[0]["content"]
    if not text.strip():
        raise WrongInput(f"the response `{field}` is empty", row.place, "drop the row or fill it in")
    return text


def read_pairs(
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Iterator[EncodedPair]:
    """Pairs of a source, encoded; see ``encode_response`` for what is refused.

    Args:
        source: Of the rows.
        tokenizer: The student's.
        max_length: Tokens of prompt and response.
        teacher_tokenizer: The teacher's, where it is another; see ``in_other_tokens``.

    Raises:
        WrongInput: A row that is no pair, with its place.
    """
    for row in open_rows(source):
        prompt = read_prompt(row)
        texts = [read_response(row, field, prompt) for field in ("chosen", "rejected")]
        start = encode_prompt(tokenizer, prompt, row.place, max_length)
        both = [encode_response(tokenizer, prompt, text, row.place, max_length, start) for text in texts]
        theirs = None
        if teacher_tokenizer is not None:
            settings = {"tokenizer": tokenizer, "max_length": max_length}
            encoded = zip(texts, both, strict=True)
            chosen, rejected = (in_other_tokens(teacher_tokenizer, prompt, *one, **settings) for one in encoded)
            theirs = EncodedPair(chosen, rejected)
        yield EncodedPair(both[0], both[1], theirs)


def as_completion(prompt: Prompt, response: str) -> str | list[dict[str, str]]:
    """A response in the prompt's own kind, as TRL's data sets hold it."""
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]
