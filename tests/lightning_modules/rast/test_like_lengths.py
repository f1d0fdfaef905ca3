"""Groups of rows of like length: against every way there is to group a few."""

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.rast.like_lengths import groups_of_like_length, pass_tokens


def cost(groups, lengths, pass_cost):
    return sum(len(group) * max(lengths[row] for row in group) + pass_cost for group in groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 40))
def test_no_other_grouping_costs_less(lengths, pass_cost):
    groups = groups_of_like_length(lengths, pass_cost)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    least = min(
        cost([[r for r, n in enumerate(numbers) if n == one] for one in set(numbers)], lengths, pass_cost)
        for numbers in product(range(len(lengths)), repeat=len(lengths))
    )
    assert cost(groups, lengths, pass_cost) == least


def test_a_few_long_rows_go_by_themselves_where_passes_are_cheap():
    lengths = [12, 30, 11, 13, 32, 12]
    assert groups_of_like_length(lengths, 10) == [[0, 2, 3, 5], [1, 4]]
    assert groups_of_like_length(lengths, 1000) == [[0, 1, 2, 3, 4, 5]]
    assert groups_of_like_length([], 10) == []


def test_passes_are_cheap_on_a_processor_and_dear_elsewhere():
    assert pass_tokens(torch.device("cpu")) < 1000 < pass_tokens(torch.device("cuda"))
