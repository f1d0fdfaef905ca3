"""What may be said of RAST's questions against another method's, no surer than the paired intervals allow."""

from callbacks.report.question_numbers import (
    HERO,
    LABELS,
    Difference,
    QuestionNumbers,
    label,
    told,
    told_bounds,
    with_sign,
)

START = "fine_tuned"
"""The generator that RAST's training starts from: what training changed is told against it."""


def lead(numbers: QuestionNumbers) -> str:
    """The outcome in one sentence."""
    pairwise = numbers.get(HERO, "pairwise_bleu")
    if pairwise is None:
        return "This run holds no sets of questions asked by RAST."
    others = [name for name in (START, *LABELS) if name != HERO]
    other = next((name for name in others if numbers.get(name, "pairwise_bleu") is not None), None)
    if other is None:
        return f"RAST's questions have a Pairwise BLEU of {told(pairwise)}, with nothing to hold it against."
    variety = _variety(numbers.difference(HERO, other, "pairwise_bleu"), other)
    outcome = f"RAST's questions are {variety}, and {_cost(numbers.difference(HERO, other, 'qa_f1'))}."
    return outcome if numbers.judge_knows else f"The judge cannot answer the true questions either. {outcome}"


def against_the_others(numbers: QuestionNumbers) -> str:
    """The same against every other method of which the difference was computed; empty without one."""
    told_each = []
    for name in numbers.methods:
        found = numbers.difference(HERO, name, "pairwise_bleu")
        if name != START and found and found.interval:
            told_each.append(f"They are {_variety(found, name)}, and {_cost(numbers.difference(HERO, name, 'qa_f1'))}.")
    return " ".join(told_each)


def _variety(found: Difference | None, other: str) -> str:
    whose = f"its {label(other)}" if other == START else label(other)
    if found is None:
        return f"not to be compared in variety with those of {whose}"
    if found.interval is None:
        way = "lower" if found.value < 0 else "higher"
        return (
            f"of a Pairwise BLEU {told(abs(found.value))} {way} than those of {whose} (no interval of the difference)"
        )
    if not found.sure:
        return f"not distinguishable in variety from those of {whose}{_inside('Pairwise BLEU', found)}"
    return f"{'more' if found.value < 0 else 'less'} varied than those of {whose}{_inside('Pairwise BLEU', found)}"


def _cost(found: Difference | None) -> str:
    if found is None:
        return "how well they can be answered was not measured"
    if found.interval is None:
        way = "higher" if found.value > 0 else "lower"
        return f"the F1 of the judge's answers is {told(abs(found.value))} {way} (no interval of the difference)"
    if not found.sure:
        return f"whether the judge answers them better or worse cannot be told{_inside('F1', found)}"
    return f"the judge answers them {'better' if found.value > 0 else 'less well'}{_inside('F1', found)}"


def _inside(name: str, found: Difference) -> str:
    return f" ({name} {with_sign(found.value)}, 95 % interval {told_bounds(found.interval)})"
