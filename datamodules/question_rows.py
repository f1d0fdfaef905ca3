"""Rows of passage, question and answer, in the layouts that data sets come in, checked.

========================== =========================================================================
flat                       ``answer``, ``answer_start``
SQuAD                      ``answers: {text: […], answer_start: […]}``; no text: not answerable
NewsQA and others of MRQA  ``answers: […]``, ``labels: [{start: […], end: […]}]`` or
                           ``detected_answers: {text: […], char_spans: [{start: […], end: […]}]}``
========================== =========================================================================

Each with ``context`` and ``question``. Of several answers the first is taken.
"""

from typing import Any, NamedTuple

from datamodules.batches import Example
from datamodules.pairs import RowSource, open_rows, source_name
from datamodules.rows import Row
from datamodules.wrong_input import WrongInput

SHOWN = 40
"""Characters of a text that a message quotes."""


class QuestionRows(NamedTuple):
    """What a source holds."""

    examples: list[Example]
    unanswerable: int
    """Rows without an answer, passed over (SQuAD 2 has them on purpose)."""


def read_examples(source: RowSource, *, questions: bool = True) -> QuestionRows:
    """All rows of a source.

    Args:
        source: JSON lines, Parquet, a Hub id, or rows made in process.
        questions: Whether each row must have one; without, a passage and an answer will do.

    Raises:
        WrongInput: A row that cannot be used, with its place; two rows of one id; or no row at all.
    """
    examples: dict[str, Example] = {}
    unanswerable = 0
    for row in open_rows(source):
        answer = _answer(row)
        if answer is None:
            unanswerable += 1
            continue
        if row.place in examples:
            raise WrongInput("two rows have one id", row.place, "make the ids different")
        context, question = _text(row, "context"), _text(row, "question", needed=questions)
        examples[row.place] = Example(row.place, context, *_checked(context, *answer, row.place), question)
    if not examples:
        mend = "give rows with context, question, answer and answer_start"
        raise WrongInput("there are no questions", source_name(source), mend)
    return QuestionRows(list(examples.values()), unanswerable)


def _text(row: Row, field: str, needed: bool = True) -> str:
    text = row.fields.get(field)
    if text is None and not needed:
        return ""
    if not isinstance(text, str) or not text.strip():
        raise WrongInput(f"the row has no `{field}`", row.place, "each row needs one, as text; drop it or fill it in")
    return text


def _answer(row: Row) -> tuple[str, int] | None:
    """Text and offset of the row's first answer; None where the row says that it has none."""
    fields = row.fields
    try:
        if (detected := fields.get("detected_answers")) is not None:
            return _spanned(fields, detected["char_spans"]) if detected["text"] else None
        if (labels := fields.get("labels")) is not None and isinstance(fields.get("answers"), list):
            return _spanned(fields, labels) if labels else None
        if isinstance(answers := fields.get("answers"), dict):
            return (answers["text"][0], answers["answer_start"][0]) if answers["text"] else None
    except (KeyError, IndexError, TypeError) as error:
        mend = "write `answer` and `answer_start`, or SQuAD's `answers: {text: […], answer_start: […]}`"
        raise WrongInput(f"its answers cannot be read ({type(error).__name__}: {error})", row.place, mend) from None
    if fields.get("answer") is None or fields.get("answer_start") is None:
        lacking = "answer" if fields.get("answer") is None else "answer_start"
        raise WrongInput(f"the row has no `{lacking}`", row.place, "give the answer and its offset in the passage")
    return fields["answer"], fields["answer_start"]


def _spanned(fields: dict[str, Any], spans: list[dict[str, Any]]) -> tuple[str, int]:
    """The text of the first span, whose ``end`` is its last character (MRQA)."""
    start, last = spans[0]["start"][0], spans[0]["end"][0]
    return fields["context"][start : last + 1], start


def _checked(context: str, answer: Any, start: Any, place: str) -> tuple[str, int]:
    """Answer and offset, if the one stands at the other."""
    if not isinstance(answer, str) or not answer.strip():
        raise WrongInput("the answer is empty", place, "fill it in or drop the row")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise WrongInput(f"`answer_start` is {start!r}", place, "give the offset in characters, counted from 0")
    if len(context) < len(answer):
        raise WrongInput("the passage is shorter than the answer", place, "check `context` and `answer`")
    found = context[start : start + len(answer)]
    if found == answer:
        return answer, start
    offsets = [at for at in range(len(context)) if context.startswith(answer, at)]
    if not offsets:
        raise WrongInput(f"the answer {_short(answer)} is not in the passage", place, "correct it or drop the row")
    nearest = min(offsets, key=lambda at: abs(at - start))
    what = f"at `answer_start` {start} stands {_short(found)} and not the answer {_short(answer)}"
    raise WrongInput(what, place, f"set answer_start to {nearest}, or drop the row")


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
