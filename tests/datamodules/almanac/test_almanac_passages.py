import pytest

from datamodules.almanac import passages
from datamodules.almanac.askings import ASKINGS, STYLES, ask
from datamodules.wrong_input import WrongInput

WORDS = {"name": "Ada Holm", "street": "Mill Lane", "house": "bakery", "good": "loaf"}


@pytest.mark.parametrize("sentences", [1, 3, 6])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_answer_stands_where_it_is_said_to(sentences, split):
    for row in passages(1, split, 300, sentences):
        start, answer = row["answer_start"], row["answer"]
        assert row["context"][start : start + len(answer)] == answer
        # whole words only: "7" is not the end of "17"
        assert not row["context"][start + len(answer)].isalnum()
        assert start == 0 or not row["context"][start - 1].isalnum()
        assert row["context"].count(".") == sentences


def test_the_answer_is_not_in_the_question():
    for row in passages(0, "train", 500, 2):
        assert row["answer"] not in row["question"].split()
        assert not (" " in row["answer"] and row["answer"] in row["question"])


def test_the_answer_is_what_was_asked_for():
    """The words around the answer in the first sentence pattern name its field."""
    signs = {"in which year": "since", "how many crowns": "for"}
    checked = 0
    for row in passages(0, "train", 800):
        for sign, word in signs.items():
            if sign in row["question"].lower() and row["context"].startswith("In "):
                before = row["context"][: row["answer_start"]].split()[-1]
                assert before == word, row
                checked += 1
    assert checked > 10


def test_a_dozen_styles_and_more_each_distinct_for_each_field():
    assert len(STYLES) >= 12
    assert {row["style"] for row in passages(0, "train", 400)} == set(STYLES)
    for field in ASKINGS:
        questions = {ask(style, field, WORDS) for style in STYLES}
        assert len(questions) == len(STYLES)
        assert all(text[0].isupper() and text[-1] in "?." and "{" not in text for text in questions)


def test_rows_do_not_depend_on_the_count():
    assert list(passages(0, "test", 9, 2))[:4] == list(passages(0, "test", 4, 2))


def test_passages_of_several_lengths_come_in_turn():
    rows = list(passages(0, "train", 6, sentences=4, fewest=2))
    assert [row["context"].count(".") for row in rows] == [2, 3, 4, 2, 3, 4]
    assert rows[1] == list(passages(0, "train", 2, sentences=3))[1]
    assert list(passages(0, "train", 6, sentences=4, fewest=2))[:3] == rows[:3]


WRONG = [{"split": "dev"}, {"count": -1}, {"sentences": 0}, {"sentences": 7}, {"fewest": 0}, {"fewest": 2}]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_told_at_once(wrong):
    with pytest.raises(WrongInput):
        passages(**({"seed": 0, "split": "train", "count": 1} | wrong))
