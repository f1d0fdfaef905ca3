"""The sections of a page on generated questions that are made of numbers; None where there are none."""

from collections.abc import Iterable, Mapping

from callbacks.report.figure_style import SERIES
from callbacks.report.figures import Point, curves_figure, scatter_with_intervals
from callbacks.report.page import Section, Table
from callbacks.report.question_claims import against_the_others
from callbacks.report.question_numbers import (
    HERO,
    LABELS,
    REFERENCE,
    QuestionNumbers,
    label,
    told,
    told_bounds,
    with_sign,
)
from callbacks.report.run_files import Curve

COLOURS = {name: SERIES[number] for number, name in enumerate(LABELS.values())}  # one method, one colour
_MAIN = {
    "top1_bleu": "Top-1",
    "oracle_bleu": "Oracle",
    "pairwise_bleu": "Pairwise ↓",
    "self_bleu": "Self-BLEU ↓",
    "overall": "Overall",
    "qa_em": "QA EM",
    "qa_f1": "QA F1",
}
_WORDING = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "question_word_entropy": "question words",
    "template_adherence": "adherence",
    "copy_rate": "copied",
    "nll": "nll ↓",
}
_DIGITS = {"question_word_entropy": 2, "overall": 2, "nll": 2}
_PARTS = "train/reward_"


def trade_off(numbers: QuestionNumbers) -> Section | None:
    """Variety against questions that still ask for the answer."""
    dots = []
    for name in numbers.methods:
        x, y = numbers.get(name, "pairwise_bleu"), numbers.get(name, "qa_f1")
        if x is not None and y is not None:
            intervals = numbers.interval(name, "pairwise_bleu"), numbers.interval(name, "qa_f1")
            dots.append(Point(label(name), x, y, *intervals))
    if not dots:
        return None
    text = (
        "Left is more varied: the questions asked about one passage share less wording. Up, the judge, a QA model that "
        "is not the reward's, finds the marked answer from the question more often. Either is easy to have alone: "
        "nonsense is varied, and one good question repeated is answered. Best is the upper left corner."
    )
    if paired := against_the_others(numbers):
        text += f"\n\nRAST's questions against the others': {paired[0].lower()}{paired[1:]}"
    figure = scatter_with_intervals(
        dots, "Pairwise BLEU (lower is more varied)", "F1 of the judge's answers (%)", colours=COLOURS
    )
    return Section("Variety, and what it costs", text, [figure])


def every_number(numbers: QuestionNumbers) -> Section | None:
    """All metrics of all methods with their intervals, and RAST's differences where they were computed."""
    if not numbers.methods:
        return None
    tables = [
        _table(numbers, _MAIN, "BLEU, EM and F1 in per cent; ↓: lower is more varied. –: not measured or not defined.")
    ]
    caption = (
        "In per cent; question words, the entropy of what, which, who, …, in bits. Adherence: words that a question "
        "shares with its template, 0 where none was given. Copied: words of the question that stand in the passage. "
        "Distinct words are counted within an input's questions: the fewer questions, the more are distinct. nll: nats "
        "a token of the questions under a language model that had no part in training; low reads like other questions."
    )
    tables += [_table(numbers, _WORDING, caption)] if _any(numbers, _WORDING) else []
    if rows := _differences(numbers):
        caption = "Differences on the same inputs. Where the interval holds 0, which is ahead cannot be told."
        tables.append(Table([f"{label(HERO)} minus", *_MAIN.values()], rows, caption))
    text = (
        "Small: 95 % bootstrap intervals over inputs. Top-1 is the BLEU of the question with the best score, Oracle "
        "that of the question nearest to the true one, Pairwise the mean BLEU of an input's questions against each "
        "other, Overall Top-1 × Oracle / Pairwise."
    )
    return Section("Every number", text, tables=tables)


def training(curves: Mapping[str, Mapping[str, Curve]]) -> Section | None:
    """What the reinforced stages earned, on what terms, and what to be wary of; losses of the supervised stages."""
    reinforced = {stage: found for stage, found in curves.items() if "train/reward" in found}
    figures: list[str] = []
    for stage, found in reinforced.items():
        named = f"{stage}, " if len(reinforced) > 1 else ""
        parts = [key.removeprefix(_PARTS) for key in found if key.startswith(_PARTS)]
        wanted = [("reward", {"training": "train/reward", "held out": "val/reward"}, False)]
        wanted += [(name, {"sampled": _PARTS + name, "greedy": f"train/greedy_reward_{name}"}, False) for name in parts]
        wanted += [
            ("KL (nats a question)", {"training": "train/kl", "held out": "val/kl"}, False),
            ("share", {"words copied": "train/copy_rate", "questions not finished": "train/unfinished_share"}, True),
        ]
        for axis, lines, share in wanted:
            drawn = {name: found[key] for name, key in lines.items() if key in found}
            if drawn:
                figures.append(curves_figure(drawn, f"{named}{axis}", percent_y=share, half=True))
    losses = {s: found["train/loss"] for s, found in curves.items() if s not in reinforced and "train/loss" in found}
    if losses:
        figures.append(curves_figure(losses, "loss of the supervised stages (nats a token)"))
    told_reward = (
        "The reward is what the reinforced stage maximises: how well the reward's QA model finds the answer "
        "(consistency), and words shared with the template (diversity), times their weights; the parts are drawn "
        "without. Greedy: the same of the greedily decoded questions. KL: how far the generator has moved from its "
        "start. A reward that rises together with copied words or unfinished questions may be gamed."
    )
    text = (f"{told_reward}\n\n" if reinforced else "") + "Long curves are averaged over equal stretches of steps."
    return Section("Training", text, figures) if figures else None


def _table(numbers: QuestionNumbers, columns: Mapping[str, str], caption: str) -> Table:
    shown = {metric: heading for metric, heading in columns.items() if _any(numbers, [metric])}
    names = [*numbers.methods, REFERENCE]
    rows = [[label(name), *(_cell(numbers, name, metric) for metric in shown)] for name in names]
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    return Table(["method", *shown.values()], rows, caption)


def _cell(numbers: QuestionNumbers, name: str, metric: str) -> str:
    """A number, its interval on the cell's second line."""
    digits = _DIGITS.get(metric, 1)
    value, bounds = numbers.get(name, metric), numbers.interval(name, metric)
    return told(value, digits) + (f"\n{told_bounds(bounds, digits)}" if value is not None and bounds else "")


def _differences(numbers: QuestionNumbers) -> list[list[str]]:
    """A row a method against which differences were computed on the same inputs."""
    rows = []
    for other in numbers.methods:
        cells = []
        for metric in _MAIN:
            found = numbers.difference(HERO, other, metric)
            paired = found if found and found.interval else None
            digits = _DIGITS.get(metric, 1)
            shown = f"{with_sign(paired.value, digits)}\n{told_bounds(paired.interval, digits)}" if paired else "–"
            cells.append(shown)
        if any(cell != "–" for cell in cells):
            rows.append([label(other), *cells])
    return rows


def _any(numbers: QuestionNumbers, columns: Iterable[str]) -> bool:
    return any(numbers.get(name, metric) is not None for name in numbers.methods for metric in columns)
