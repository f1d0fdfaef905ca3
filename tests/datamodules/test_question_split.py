import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.almanac import passages
from datamodules.digest import text_share
from datamodules.question_split import part_of
from datamodules.wrong_input import WrongInput

ROWS = list(passages(0, "train", 300))


@given(st.floats(0.01, 0.9))
@settings(max_examples=20, deadline=None)
def test_the_two_parts_are_the_whole_and_share_no_passage(share):
    train, test = (list(part_of(ROWS, part, share)) for part in ("train", "test"))
    assert sorted(row["id"] for row in (*train, *test)) == sorted(row["id"] for row in ROWS)
    assert not {row["context"] for row in train} & {row["context"] for row in test}
    assert abs(len(test) / len(ROWS) - share) < 0.15


def test_development_passages_are_not_of_the_test():
    test = list(part_of(ROWS, "test", 0.3))
    assert min(text_share(row["context"]) for row in test) >= 0.7  # development ones lie below their own share


def test_all_questions_on_a_passage_are_in_one_part():
    more = ROWS + [row | {"id": f"{row['id']}-again"} for row in ROWS]
    assert {row["id"].removesuffix("-again") for row in part_of(more, "test", 0.2)} == {
        row["id"] for row in part_of(ROWS, "test", 0.2)
    }


@pytest.mark.parametrize(("part", "share"), [("validation", 0.1), ("test", 1.0), ("test", -0.1), ("test", 0.0)])
def test_parts_and_shares_that_are_none(part, share):
    with pytest.raises(WrongInput, match="test_share"):
        list(part_of(ROWS, part, share))
