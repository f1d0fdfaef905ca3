"""What a judge is given and what it gives back: the contract between the evaluation and every judge."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

Outcome = Literal["win", "tie", "lose", "invalid"]


class Comparison(NamedTuple):
    """Two answers to one prompt.

    Attributes:
        id: The prompt's name, unique in an evaluation.
        prompt: The chat before the answer: messages of ``{"role": ..., "content": ...}``, in order.
        student_answer: The student's text.
        teacher_answer: The teacher's text.
        key: What a rule needs to mark an answer to this prompt; None where there is nothing to mark by.
    """

    id: str
    prompt: list[dict[str, str]]
    student_answer: str
    teacher_answer: str
    key: dict[str, Any] | None = None


class Verdict(NamedTuple):
    """What a judge said of one comparison.

    Attributes:
        id: The comparison's.
        outcome: Seen from the student; ``"invalid"`` where the judge's words hold no verdict.
        why: The reason in one line; for an invalid verdict, the words that could not be read.
    """

    id: str
    outcome: Outcome
    why: str


class Judge(Protocol):
    """Anything that compares answers; construct it with whatever it needs, then ask."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a comparison, in the same order."""
        ...


def check_judge(judge: Judge, plan: bool = False) -> None:
    """Have the judge say now what it lacks, if it can tell: not after hours of training.

    Args:
        judge: One with a method ``check``, or without.
        plan: The run is only planned, and nobody will be asked: passes.

    Raises:
        WrongInput: What its ``check`` says.
    """
    check = getattr(judge, "check", None)
    if check is not None and not plan:
        check()
