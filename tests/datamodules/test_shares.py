"""Shares of rows: disjoint, even, the whole together, and the same each time."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.shares import RowShare
from datamodules.wrong_input import WrongInput


def rows(count):
    return [{"prompt": f"{number} + 2 =", "id": f"r{number}"} for number in range(count)]


@given(count=st.integers(7, 60), of=st.integers(1, 7), seed=st.integers(0, 5))
def test_shares_are_the_whole_and_no_row_is_in_two(count, of, seed):
    shares = [[row["id"] for row in RowShare(rows(count), number, of, seed)] for number in range(1, of + 1)]
    assert sorted(sum(shares, [])) == sorted(row["id"] for row in rows(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for start in range(0, count - of + 1, of):  # of neighbours each share has one
        neighbours = {f"r{number}" for number in range(start, start + of)}
        assert all(len(neighbours & set(share)) == 1 for share in shares)


def test_a_share_of_rows_that_repeat_a_pattern_is_no_class_of_it():
    kinds = [int(row["id"][1:]) % 3 for row in RowShare(rows(300), 1, 3)]
    assert min(map(kinds.count, range(3))) > 15


def test_the_whole_is_a_share_too_and_another_seed_draws_others():
    assert list(RowShare(rows(9), 1, 1)) == rows(9)
    drawn = [[row["id"] for row in RowShare(rows(40), 1, 2, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_each_pass_is_the_same_and_rows_of_files_keep_their_place(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(10)))
    share = RowShare(str(path), 2, 3)
    first = list(share)
    assert first == list(share) != []
    assert all(row["id"] == f"pairs.jsonl:{int(row['prompt']) + 1}" for row in first)


@pytest.mark.parametrize(("number", "of"), [(0, 2), (3, 2), (1, 0)])
def test_a_share_that_there_is_not(number, of):
    with pytest.raises(WrongInput, match="no share"):
        RowShare(rows(3), number, of)


def test_a_share_without_rows():
    with pytest.raises(WrongInput, match="share . of 3 has no row.*fewer rounds"):
        _ = [list(RowShare(rows(2), number, 3)) for number in (1, 2, 3)]
