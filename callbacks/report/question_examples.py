"""A few passages with what each method asked about them, to be read side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.questions.answers import exact_match, word_f1
from callbacks.report.page import Passage, Question, Section
from callbacks.report.question_numbers import LABELS, label

_EXAMPLES = 3


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """Passages at even distances through the file, so that nobody chose them.

    Args:
        rows: Of ``RunFiles.questions``.
    """
    if not rows:
        return None
    count = min(_EXAMPLES, len(rows))
    shown = [_passage(rows[n * len(rows) // count]) for n in range(count)]
    text = (
        f"{count} of {len(rows)} passages, taken at even distances and not for what they show; the answer to be asked "
        "for is marked. Under each question: the template it was asked by, where there was one, and what the judge "
        "answered to it. Right is the marked answer but for case, articles and punctuation; partly shares words with "
        "it. The judge errs too."
    )
    return Section("Questions side by side", text, passages=shown)


def _passage(row: Mapping[str, Any]) -> Passage:
    context, answer = row["context"], str(row.get("answer") or "")
    start = row.get("answer_start")
    if not isinstance(start, int) or not 0 <= start <= len(context) or not context.startswith(answer, start):
        start, answer_here = len(context), ""  # no place that could be marked
    else:
        answer_here = answer
    end = start + len(answer_here)
    methods = row["methods"]
    names = [name for name in LABELS if name in methods] + [name for name in methods if name not in LABELS]
    asked = [(label(name), _questions(methods[name], answer)) for name in names]
    return Passage(context[:start], context[start:end], context[end:], str(row.get("reference") or ""), asked)


def _questions(asked: Sequence[Mapping[str, Any]], answer: str) -> list[Question]:
    scores = [one.get("score") for one in asked]
    known = [score for score in scores if isinstance(score, int | float)]
    top = scores.index(max(known)) if len(known) == len(asked) > 1 else None
    return [_question(one, answer, "first choice" if place == top else "") for place, one in enumerate(asked)]


def _question(one: Mapping[str, Any], answer: str, tag: str) -> Question:
    answered = one.get("answered")
    verdict = ""
    if isinstance(answered, str) and answer:
        verdict = "right" if exact_match(answered, answer) else "partly" if word_f1(answered, answer) else "wrong"
    return Question(
        one["question"], str(one.get("template") or ""), None if answered is None else str(answered), verdict, tag
    )
