"""A run's flat metrics, asked by student; and numbers as a reader wants them."""

import math
from collections.abc import Mapping

LABELS = {"dsft": "dSFT", "sft_chosen": "SFT on chosen", "ddpo": "dDPO", "dadpo": "daDPO"}
"""Students in the order in which they are shown, with their names on the page; others follow under their own."""


class StudentNumbers:
    """Metrics by student. A number that is not finite counts as absent and is noted.

    Args:
        metrics: ``teacher/accuracy`` and ``student/NAME/METRIC``, with ``_ci_low`` and ``_ci_high`` beside some. Where
            ``student/NAME/preference_gain_over_OTHER`` (paired, with its interval) is there, claims rest on it.

    Attributes:
        students: Names of the students with any number, in the order to show them.
        hero: The student that the run is about: daDPO, else the last one, else None.
        notes: What is not finite, a sentence each.
    """

    def __init__(self, metrics: Mapping[str, float]):
        self._metrics = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self.notes = [f"{key} is not finite." for key in metrics if key not in self._metrics and "_ci_" not in key]
        found = dict.fromkeys(key.split("/")[1] for key in self._metrics if key.startswith("student/"))
        self.students = [name for name in LABELS if name in found] + [name for name in found if name not in LABELS]
        self.hero = "dadpo" if "dadpo" in found else self.students[-1] if found else None

    def label(self, student: str) -> str:
        """The student's name on the page."""
        return LABELS.get(student, student)

    def get(self, student: str, metric: str) -> float | None:
        """One number of a student, or of ``teacher``; None where it was not measured."""
        return self._metrics.get(f"teacher/{metric}" if student == "teacher" else f"student/{student}/{metric}")

    def interval(self, student: str, metric: str) -> tuple[float, float] | None:
        """The bounds beside a number, if both are there."""
        low, high = self.get(student, f"{metric}_ci_low"), self.get(student, f"{metric}_ci_high")
        return None if low is None or high is None else (low, high)

    def gain(self, student: str, other: str) -> tuple[float | None, tuple[float, float] | None]:
        """By how much a student's preference rate exceeds another's, and the paired interval if it was computed."""
        paired = f"preference_gain_over_{other}"
        if (gain := self.get(student, paired)) is not None:
            return gain, self.interval(student, paired)
        ours, theirs = self.get(student, "preference_rate"), self.get(other, "preference_rate")
        return (None, None) if student == other or ours is None or theirs is None else (ours - theirs, None)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return "–" if fraction is None else f"{signed(100 * fraction, digits)}\u00a0%"


def points(fraction: float, digits: int = 1) -> str:
    """A difference of fractions in percentage points."""
    return f"{signed(100 * fraction, digits)}\u00a0points"


def signed(value: float, digits: int = 1) -> str:
    """A number with a proper minus sign, and none before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
