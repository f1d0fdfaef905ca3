"""The sections of a daDPO run's page, each from its own data; None where there are none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.report.figure_style import SERIES
from callbacks.report.figures import Point, curves_figure, scatter_with_intervals
from callbacks.report.histogram_figure import histogram_figure
from callbacks.report.page import Answer, Example, Section, Table
from callbacks.report.rates_figure import rates_figure
from callbacks.report.run_files import Curve
from callbacks.report.student_numbers import LABELS, StudentNumbers, percent, signed

_COLOURS = {  # one model, one colour, all over the page
    "daDPO": SERIES[0],
    "dDPO": SERIES[1],
    "SFT on chosen": SERIES[2],
    "dSFT": SERIES[3],
    "teacher": SERIES[5],
}
_SATURATION = math.log(99.0)  # nats at which a sigmoid is within 1 % of its end, unless the run says otherwise
_EXAMPLES = 6
_RATES = ("win_rate", "tie_rate", "lose_rate", "preference_rate")


def against_the_teacher(numbers: StudentNumbers) -> Section | None:
    """Win, tie, lose and preference rate of each student, drawn and in a table with the other metrics."""
    judged = [name for name in numbers.students if all(numbers.get(name, rate) is not None for rate in _RATES)]
    if not judged:
        return None
    bounds = ("preference_rate_ci_low", "preference_rate_ci_high")
    rates = {
        numbers.label(name): {key: value for key in (*_RATES, *bounds) if (value := numbers.get(name, key)) is not None}
        for name in judged
    }
    header = ["student", "win", "tie", "lose", "preference", "accuracy", "KL to teacher", "tokens", "invalid"]
    rows = [_row(numbers, name) for name in judged]
    if numbers.get("teacher", "accuracy") is not None or numbers.get("teacher", "response_tokens") is not None:
        rows.append(_row(numbers, "teacher"))
    caption = (
        "Small: 95 % bootstrap intervals over prompts. KL in nats a token on the teacher's held-out answers; tokens: "
        "mean length of an answer. Rates are shares of the verdicts that could be read; invalid is the share that "
        "could not."
    )
    text = (
        "Each student answered the same held-out prompts as the teacher, and a judge compared the two answers. At a "
        "preference rate of 0 the student is preferred as often as the teacher."
    )
    return Section("Against the teacher", text, [rates_figure(rates)], [Table(header, rows, caption)])


def accuracy_and_divergence(numbers: StudentNumbers) -> Section | None:
    """Accuracy against KL to the teacher: better answers, and at what distance."""
    measured = [(name, numbers.get(name, "kl_to_teacher"), numbers.get(name, "accuracy")) for name in numbers.students]
    dots = [
        Point(
            numbers.label(name),
            kl,
            accuracy,
            numbers.interval(name, "kl_to_teacher"),
            numbers.interval(name, "accuracy"),
        )
        for name, kl, accuracy in measured
        if kl is not None and accuracy is not None
    ]
    if not dots:
        return None
    if (accuracy := numbers.get("teacher", "accuracy")) is not None:
        dots.append(Point("teacher", 0.0, accuracy, None, numbers.interval("teacher", "accuracy")))
    text = (
        "Up is right more often, left is closer to the teacher's distribution. Training on preferences can gain the "
        "one at the cost of the other; the teacher itself sits at a divergence of 0."
    )
    figure = scatter_with_intervals(
        dots, "KL to the teacher (nats a token)", "accuracy", percent_y=True, colours=_COLOURS
    )
    return Section("Accuracy and distance from the teacher", text, [figure])


def training(curves: Mapping[str, Mapping[str, Curve]]) -> Section | None:
    """Losses of the supervised stages, and loss and diagnostics of the preference stages."""
    order = {stage: place for place, stage in enumerate(("teacher", *LABELS))}
    stages = sorted(curves, key=lambda stage: (order.get(stage, len(order)), stage))
    preference = [stage for stage in stages if "train/margin" in curves[stage] or stage in ("ddpo", "dadpo")]
    supervised = [stage for stage in stages if stage not in preference]
    wanted = [
        (supervised, "train/loss", "loss (nats a token)", False),
        (preference, "train/loss", "preference loss (nats)", False),
        (preference, "train/accuracy", "pairs ranked right", True),
        (preference, "train/margin", "mean margin (nats)", False),
        (preference, "train/saturated_share", "saturated pairs", True),
    ]
    figures = []
    for group, key, label, share in wanted:
        lines = {LABELS.get(stage, stage): curves[stage][key] for stage in group if key in curves[stage]}
        if lines:
            figures.append(curves_figure(lines, label, percent_y=share, half=group is preference, colours=_COLOURS))
    text = (
        "Values of training batches, long curves averaged over equal stretches of steps. A preference loss starts at "
        "log 2 ≈ 0.693 without a teacher term; with one it starts where the target margins below put it. A pair is "
        "saturated where the sigmoid of its margin is within 1 % of 0 or 1. Rounds on refreshed pairs are "
        "drawn one behind the other."
    )
    return Section("Training", text, figures) if figures else None


def target_margins(content: Mapping[str, Any]) -> Section | None:
    """Distribution of β2·δ_te: what the teacher's distribution asks of each pair."""
    values = content.get("values")
    if not values:
        return None
    bound = float(content.get("saturation", _SATURATION))
    figure = histogram_figure(
        values,
        "target margin β₂·δ of a pair (nats)",
        markers={
            "as in plain DPO": 0.0,
            f"saturated below −{bound:.1f}": -bound,
            f"saturated above {bound:.1f}": bound,
        },
    )
    middle, against = sorted(values)[len(values) // 2], sum(value < 0 for value in values) / len(values)
    text = (
        "By how much more than the reference the teacher prefers its own response over the student's, times β₂: the "
        "margin that the teacher term asks of each pair, and so its weight in the first step. Near 0 daDPO works like "
        "plain DPO. Far to the right all pairs pull with the same full weight. To the left of 0 the teacher doubts the "
        "label, and the pair loses weight."
    )
    saturated = content.get("saturated_share")
    start = f", and {percent(saturated)} are saturated at the start" if isinstance(saturated, int | float) else ""
    text += (
        f"\n\nHere the median is {signed(middle, 2)} nats; {percent(against, 0)} of the {len(values)} pairs lie below "
        f"0{start}."
    )
    if isinstance(overshoot := content.get("overshoot_factor"), int | float):
        text += (
            f" The overshoot factor is {overshoot:.3g}: with unlimited data and steps these settings ask for that many "
            "times the way from the reference to the teacher. 1 would land on the teacher; what is beyond is held back "
            "only by few steps and a small learning rate."
        )
    return Section("What the teacher's distribution asks for", text, [figure])


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """A few prompts with everyone's answers, first those on which the students fare differently."""
    if not rows:
        return None
    telling = sorted(rows, key=lambda row: len(set(row.get("verdicts", {}).values())) < 2)  # stable: else file order
    examples = []
    for row in telling[:_EXAMPLES]:
        prompt = [
            {"role": str(turn.get("role", "")), "content": str(turn.get("content", ""))} for turn in row["prompt"]
        ]
        known = [name for name in ("teacher", *LABELS) if name in row["answers"]]
        names = known + [name for name in row["answers"] if name not in known]
        verdicts = row.get("verdicts", {})
        answers = [
            Answer(LABELS.get(name, name), str(row["answers"][name]), _verdict(verdicts, name)) for name in names
        ]
        examples.append(Example(prompt, answers))
    text = "Prompts on which the students fare differently come first. Verdicts are seen from the student."
    return Section("Answers side by side", text, examples=examples)


def _row(numbers: StudentNumbers, name: str) -> list[str]:
    """A student's line of the table; bounds on the cell's second line."""
    cells = [numbers.label(name)]
    for metric in (*_RATES, "accuracy"):
        bounds = numbers.interval(name, metric)
        beside = f"\n{percent(bounds[0])[:-2]} to {percent(bounds[1])[:-2]}" if bounds else ""
        cells.append(percent(numbers.get(name, metric)) + beside)
    kl, bounds, tokens = (
        numbers.get(name, "kl_to_teacher"),
        numbers.interval(name, "kl_to_teacher"),
        numbers.get(name, "response_tokens"),
    )
    beside = f"\n{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
    cells.append("–" if kl is None else f"{kl:.3f}{beside}")
    return [*cells, "–" if tokens is None else f"{tokens:.1f}", percent(numbers.get(name, "invalid_rate"))]


def _verdict(verdicts: Mapping[str, Any], name: str) -> str:
    """A verdict that the page has a colour for, or none."""
    return str(verdicts[name]) if verdicts.get(name) in ("win", "tie", "lose", "invalid") else ""
