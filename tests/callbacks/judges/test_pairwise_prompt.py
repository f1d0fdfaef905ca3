import pytest

from callbacks.judges import Comparison
from callbacks.judges.pairwise_prompt import (
    PAIRWISE_TEMPLATE,
    agree,
    check_template,
    read_choice,
    render_both_orders,
)
from datamodules.wrong_input import WrongInput


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("A is right.\n[[A]]", "A"),
        ("At first [[A]], but no: [[b]]", "B"),
        ("[[ C ]]", "C"),
        ("A", None),
        ("[A]", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_reads_the_last_bracketed_choice(reply, choice):
    assert read_choice(reply) == choice


@pytest.mark.parametrize(
    ("student_first", "teacher_first", "outcome"),
    [
        ("A", "B", "win"),
        ("B", "A", "lose"),
        ("A", "A", "tie"),
        ("B", "B", "tie"),
        ("C", "C", "tie"),
        ("A", "C", "tie"),
        ("C", "A", "tie"),
        (None, "A", "invalid"),
        ("C", None, "invalid"),
    ],
)
def test_only_what_survives_the_swap_counts(student_first, teacher_first, outcome):
    assert agree([student_first, teacher_first]) == outcome


def test_braces_and_placeholders_in_texts_stay_as_they_are():
    prompt = [{"role": "system", "content": "be {brief}"}, {"role": "user", "content": "{answer_b}?"}]
    first, second = render_both_orders("{conversation}|{answer_a}|{answer_b}", Comparison("1", prompt, "{x}", "{}"))
    assert first == "system: be {brief}\n\nuser: {answer_b}?|{x}|{}"
    assert second == "system: be {brief}\n\nuser: {answer_b}?|{}|{x}"


def test_a_template_must_show_both_answers():
    assert check_template(PAIRWISE_TEMPLATE) == PAIRWISE_TEMPLATE
    with pytest.raises(WrongInput, match=r"\{answer_b\}, \{conversation\}"):
        check_template("only {answer_a}")
