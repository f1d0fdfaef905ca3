"""What one should know before believing numbers of generated questions, from the numbers themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.page import Section
from callbacks.report.question_numbers import HERO, LOWER_IS_BETTER, REFERENCE, QuestionNumbers, joined, label, told

_RUINED = 3.0  # points of F1 that variety may cost before one speaks of ruined questions
_COMPARED = {
    "top1_bleu": "Top-1 BLEU",
    "oracle_bleu": "Oracle BLEU",
    "pairwise_bleu": "Pairwise BLEU",
    "overall": "Overall",
    "qa_f1": "QA F1",
}


def what_to_know(numbers: QuestionNumbers, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """Where others are ahead, what Overall rewards, and what the intervals do not cover.

    Args:
        numbers: The run's.
        rows: Of ``RunFiles.questions``.
    """
    if not numbers.methods:
        return None
    told_all = [
        about_overall(numbers),
        ahead_of_rast(numbers),
        "Pairwise BLEU is the mean over ordered pairs of an input's questions. The code released with the paper prints "
        "Self-BLEU, each question against all others together, under the name of Pairwise, and that is higher: "
        "published figures are likely to be comparable with the column of Self-BLEU alone.",
        about_the_judge(numbers),
        "The intervals are over the test inputs of this one run. Another seed of training moves the numbers too, by "
        "how much they do not say.",
        fewer_questions(rows),
    ]
    return Section("What to know about these figures", "\n\n".join(text for text in told_all if text))


def about_overall(numbers: QuestionNumbers) -> str:
    """That Overall can be won by ruining questions; who wins it, and with what F1."""
    text = (
        "Overall divides by Pairwise BLEU, so it rises with all that makes questions differ, bad ones included: it can "
        "be won by ruining questions. Never choose settings by it without QA F1 beside it."
    )
    winner = numbers.leader("overall")
    if winner is None:
        return text
    found = numbers.get(winner, "overall"), numbers.get(HERO, "overall")
    against = f" against {told(found[1], 2)} of {label(HERO)}" if winner != HERO and found[1] is not None else ""
    text += f" Here {label(winner)} has the highest, {told(found[0], 2)}{against}"
    f1, best = numbers.get(winner, "qa_f1"), numbers.leader("qa_f1")
    top = numbers.get(best, "qa_f1") if best else None
    if best is None or f1 is None or top is None:
        return f"{text}; without QA F1 there is no telling what it was paid with."
    text += f", with an F1 of {told(f1)}"
    if best == winner:
        return f"{text}."
    if top - f1 > _RUINED:
        return (
            f"{text} where {label(best)} has {told(top)}: part of it is bought with questions that miss their answer."
        )
    return f"{text} ({label(best)}: {told(top)})."


def about_the_judge(numbers: QuestionNumbers) -> str:
    """That the judge errs, and how much it does on the true questions."""
    text = (
        "QA EM and F1 are those of a judge that had no part in the reward. It errs too: a question that it gets wrong "
        "may be a good one, and the other way round."
    )
    true = numbers.get(REFERENCE, "qa_f1")
    if true is None:
        return text
    text += f" Its F1 on the true questions is {told(true)}."
    if numbers.judge_knows:
        return text
    return (
        f"{text} A judge that cannot answer those cannot tell a good question from a bad one, and a reward model that "
        "has learnt no more pays for nonsense as for sense: train both longer, on more rows or from larger models, "
        "before anything here is believed."
    )


def ahead_of_rast(numbers: QuestionNumbers) -> str:
    """Who has better numbers than RAST, by metric, surely or not."""
    if HERO not in numbers.methods:
        return ""
    ahead: dict[str, list[str]] = {
        "by an interval of the difference that leaves 0 out": [],
        "by less than the interval of the difference can tell from 0": [],
        "with no interval of the difference computed": [],
    }
    for other in numbers.methods:
        for how, names in zip(ahead, _ahead(numbers, other), strict=True):
            ahead[how] += [f"{label(other)} in {joined(names)}"] if names else []
    if not any(ahead.values()):
        return f"In none of {joined(list(_COMPARED.values()))} is another method ahead of {label(HERO)} here."
    return " ".join(f"Ahead of {label(HERO)} {how}: {'; '.join(names)}." for how, names in ahead.items() if names)


def _ahead(numbers: QuestionNumbers, other: str) -> tuple[list[str], list[str], list[str]]:
    """Metrics in which another method is ahead of RAST: for sure, not for sure, and without an interval."""
    sure, unsure, unknown = [], [], []
    for metric, name in _COMPARED.items():
        found = numbers.difference(HERO, other, metric)
        if found is None or found.value == 0 or (found.value > 0) != (metric in LOWER_IS_BETTER):
            continue
        (unknown if found.interval is None else sure if found.sure else unsure).append(name)
    return sure, unsure, unknown


def fewer_questions(rows: Sequence[Mapping[str, Any]]) -> str:
    """Methods that could not ask as many questions everywhere; less is easily more varied."""
    most = max((len(asked) for row in rows for asked in row["methods"].values()), default=0)
    names = dict.fromkeys(name for row in rows for name in row["methods"])
    told_each = []
    for name in names:
        short = sum(len(row["methods"].get(name, ())) < most for row in rows)
        told_each += [f"{label(name)} for {short:,} of {len(rows):,} passages"] if short else []
    return f"Fewer than {most} questions were asked by {joined(told_each)}." if told_each else ""
