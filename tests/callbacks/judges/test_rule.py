from typing import NamedTuple

import pytest

from callbacks.judges import Comparison, RuleJudge
from datamodules.wrong_input import WrongInput


class _Mark(NamedTuple):
    fact: bool
    style: bool


def _mark(answer, key):
    return _Mark(fact=key["fact"] in answer, style=answer.endswith("!"))


def _comparison(student, teacher, key=None):
    return Comparison("p1", [{"role": "user", "content": "?"}], student, teacher, key)


@pytest.mark.parametrize(
    ("student", "teacher", "outcome"),
    [
        ("in 1912", "in 1913!", "win"),  # the fact outweighs the style
        ("in 1913!", "in 1912", "lose"),
        ("in 1912!", "in 1912", "win"),
        ("in 1913", "in 1911!", "lose"),  # both wrong: the style still decides
        ("1912!", "in 1912!", "tie"),
        ("1", "2", "tie"),
    ],
)
def test_fact_first_then_style_else_tie(student, teacher, outcome):
    verdict = RuleJudge(_mark).compare([_comparison(student, teacher, {"fact": "1912"})])[0]
    assert (verdict.id, verdict.outcome) == ("p1", outcome)
    assert verdict.why


def test_no_key_is_told_with_the_prompt():
    with pytest.raises(WrongInput, match="p1"):
        RuleJudge(_mark).compare([_comparison("a", "b")])
