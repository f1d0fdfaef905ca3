import random

import pytest
from torchmetrics.functional.text import squad

from callbacks.questions import exact_match, normalise_answer, word_f1

WORDS = ("the", "Mill", "mill", "Lane.", "a", "1,875", "Ada's", "o'clock", "—", "An", "in", "(in)")


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  Mill, Lane.", "mill lane"), ("an a THE", ""), ("Ada's o'clock", "adas oclock"), ("theme", "theme")],
)
def test_answers_are_normalised_as_squad_does(text, normal):
    assert normalise_answer(text) == normal


def test_exact_match_and_f1_are_those_of_torchmetrics():
    rng = random.Random(0)
    compared = 0
    for _ in range(300):
        answer, truth = (" ".join(rng.choices(WORDS, k=rng.randrange(1, 5))) for _ in range(2))
        expected = squad(
            [{"prediction_text": answer, "id": "1"}],
            [{"answers": {"answer_start": [0], "text": [truth]}, "id": "1"}],
        )
        assert 100 * exact_match(answer, truth) == pytest.approx(expected["exact_match"].item())
        if normalise_answer(answer) and normalise_answer(truth):  # version 2 of the script: empty ones are compared
            assert 100 * word_f1(answer, truth) == pytest.approx(expected["f1"].item(), abs=1e-4)
            compared += 1
    assert compared > 200


def test_closed_forms():
    assert word_f1("in Mill Lane", "Mill Lane") == pytest.approx(0.8)
    assert (word_f1("the", "a"), word_f1("", "mill"), word_f1("mill mill", "mill")) == (1, 0, pytest.approx(2 / 3))
