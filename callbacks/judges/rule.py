"""A judge that needs no model: an answer key decides, fact first, then style."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from callbacks.judges.verdict import Comparison, Outcome, Verdict
from datamodules.wrong_input import WrongInput


class Mark(Protocol):
    """What marking one answer gives."""

    @property
    def fact(self) -> bool:
        """Whether what the answer says is right."""
        ...

    @property
    def style(self) -> bool:
        """Whether it says it in the house style."""
        ...


class RuleJudge:
    """Marks both answers and prefers the right one; between equals, the one in style; else a tie.

    Fact before style, so that no student can make up for a wrong answer by wording it well.

    Args:
        mark: From an answer and its key to its mark.
    """

    def __init__(self, mark: Callable[[str, Mapping[str, Any]], Mark]):
        self.mark = mark

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a comparison, in the same order; never invalid.

        Raises:
            WrongInput: On a comparison without a key.
        """
        return [self._verdict(comparison) for comparison in comparisons]

    def _verdict(self, comparison: Comparison) -> Verdict:
        """Compare the marks of the two answers, the more important one first."""
        if comparison.key is None:
            raise WrongInput(
                "the prompt has no answer key to mark by",
                f"prompt {comparison.id}",
                "choose a judge that reads, e.g. openai",
            )
        student = self.mark(comparison.student_answer, comparison.key)
        teacher = self.mark(comparison.teacher_answer, comparison.key)
        for what, ours, theirs in (("fact", student.fact, teacher.fact), ("style", student.style, teacher.style)):
            if ours != theirs:
                outcome: Outcome = "win" if ours else "lose"
                return Verdict(comparison.id, outcome, f"{what}: only the {'student' if ours else 'teacher'} is right")
        return Verdict(comparison.id, "tie", f"both: fact {_said(student.fact)}, style {_said(student.style)}")


def _said(right: bool) -> str:
    """A mark as a word."""
    return "right" if right else "wrong"
