"""Numbers of generated questions, asked by method; and what may be said of one method against another."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from callbacks.questions.metrics import METRICS
from callbacks.report.student_numbers import signed

HERO = "rast"
LABELS = {
    "rast": "RAST",
    "fine_tuned": "fine-tuned start",
    "nucleus": "nucleus sampling",
    "beam": "beam search",
    "diverse_beam": "diverse beam search",
}
"""Methods in the order in which they are shown, with their names on the page; others follow under their own."""
LOWER_IS_BETTER = ("pairwise_bleu", "self_bleu", "nll")
"""Of these metrics a low number is the good one."""

REFERENCE = "reference"
"""Not a method: the true questions, one an input. What they come to is what a method can hope for."""

Bounds = tuple[float, float]


class Difference(NamedTuple):
    """One metric of a method minus that of another, on the same inputs."""

    value: float
    interval: Bounds | None
    """Of the paired difference; None where it was not computed, and then nothing is sure."""

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


class QuestionNumbers:
    """Metrics by method. NaN, which stands for what is not defined, counts as absent; infinities are noted too.

    Args:
        metrics: ``METHOD/METRIC`` of ``callbacks.questions.question_metrics``, with ``_ci_low`` and ``_ci_high``.
            Where ``METHOD/METRIC_minus_OTHER`` (paired, with its own ``_ci_low`` and ``_ci_high``) is there, claims
            rest on it.

    Attributes:
        methods: Names of the methods with any number, in the order to show them.
        notes: What is infinite, a sentence each.
    """

    def __init__(self, metrics: Mapping[str, float]):
        self._metrics = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self.notes = [f"{key} is infinite." for key, value in metrics.items() if math.isinf(value)]
        pairs = (key.split("/") for key in self._metrics)
        found = dict.fromkeys(pair[0] for pair in pairs if len(pair) == 2 and pair[1] in METRICS)
        found.pop(REFERENCE, None)
        self.methods = [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]

    def get(self, method: str, metric: str) -> float | None:
        """One number of a method, None where it was not measured or is not defined."""
        return self._metrics.get(f"{method}/{metric}")

    def interval(self, method: str, metric: str) -> Bounds | None:
        """The bounds beside a number, if both are there."""
        low, high = self.get(method, f"{metric}_ci_low"), self.get(method, f"{metric}_ci_high")
        return None if low is None or high is None else (low, high)

    def difference(self, method: str, other: str, metric: str) -> Difference | None:
        """By how much a method's number exceeds another's, and the paired interval if it was computed."""
        paired = f"{metric}_minus_{other}"
        if (value := self.get(method, paired)) is not None:
            return Difference(value, self.interval(method, paired))
        ours, theirs = self.get(method, metric), self.get(other, metric)
        return None if method == other or ours is None or theirs is None else Difference(ours - theirs, None)

    @property
    def judge_knows(self) -> bool:
        """Whether the judge answers the true questions more often than not, or was not asked them."""
        true = self.get(REFERENCE, "qa_f1")
        return true is None or true >= 50

    def leader(self, metric: str) -> str | None:
        """The method with the best number, whatever the intervals say; the first of equals."""
        known = [(value, name) for name in self.methods if (value := self.get(name, metric)) is not None]
        best = min if metric in LOWER_IS_BETTER else max
        return best(known, key=lambda pair: pair[0])[1] if known else None


def label(method: str) -> str:
    """The method's name on the page."""
    return "true questions" if method == REFERENCE else LABELS.get(method, method.replace("_", " "))


def told(value: float | None, digits: int = 1) -> str:
    """A number; a dash where there is none."""
    return "–" if value is None else signed(value, digits)


def told_bounds(interval: Bounds | None, digits: int = 1) -> str:
    """``low to high``; empty where there is none."""
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}" if interval else ""


def with_sign(value: float, digits: int = 1) -> str:
    """A difference, with a plus sign where it is positive."""
    shown = signed(value, digits)
    return f"+{shown}" if value > 0 and shown.strip("0.") else shown


def joined(words: list[str], last: str = "and") -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
