"""Rewards by hand, by law, and what is refused."""

import math
import re
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.rast.rewards import (
    Asked,
    Diversity,
    RewardError,
    WeightedRewards,
    consistency,
    copy_rate,
    jaccard,
)


class Passage(NamedTuple):
    context: str = "The Almanac was founded in 1873 by Ada Moor ."


def words(text):
    return set(re.findall(r"\w+|[^\w\s]", text.replace("[MASK]", " ").lower()))


def asked(questions, templates=None, nlls=None):
    return Asked(questions, templates or [None] * len(questions), [Passage()] * len(questions), nlls)


def test_consistency_is_the_geometric_mean_of_the_answers_token_probabilities():
    probabilities = torch.tensor([[0.9, 0.4], [1.0, 1.0]])
    got = consistency(asked(["a", "b"], nlls=-probabilities.log().mean(1)))
    torch.testing.assert_close(got, probabilities.prod(1).sqrt())
    with pytest.raises(ValueError, match="consistency asks a QA model"):
        consistency(asked(["a"]))


def test_diversity_by_hand():
    questions = ["Who founded the Almanac in 1873 ?", "WHO FOUNDED it in it?", "Where ?", "", "Who ?"]
    templates = ["Who founded [MASK] in [MASK] ?", "Who founded [MASK] in [MASK] ?", None, "[MASK]", "[MASK] ?"]
    got = Diversity(words)(asked(questions, templates))
    torch.testing.assert_close(got, torch.tensor([4 / 7, 4 / 5, 0.0, 0.0, 1 / 2]))


texts = st.lists(st.sampled_from(["who", "what", "did", "the", "?", "crow"]), max_size=6)


@given(texts, texts)
def test_jaccard_is_a_similarity(a, b):
    left, right = set(a), set(b)
    assert 0 <= jaccard(left, right) == jaccard(right, left) <= 1
    assert (jaccard(left, right) == 1) == (left == right and bool(left))
    assert (jaccard(left, right) == 0) == (not left & right)


def test_named_parts_and_their_weights():
    rewards = WeightedRewards(
        {"consistency": consistency, "diversity": Diversity(words), "brevity": lambda a: 1 / torch.ones(2)},
        {"brevity": 0.5, "diversity": 0.1, "consistency": 1},
    )
    parts = rewards(asked(["Who ?", "What ?"], ["Who ?", None], torch.tensor([0.0, 1.0])))
    assert list(parts) == ["consistency", "diversity", "brevity"]
    assert parts["consistency"].tolist() == pytest.approx([1.0, math.exp(-1)])
    weighted = rewards.weighted(parts)
    assert {name: part.tolist() for name, part in weighted.items()} == {
        "consistency": pytest.approx([1.0, math.exp(-1)]),
        "diversity": pytest.approx([0.1, 0.0]),
        "brevity": pytest.approx([0.5, 0.5]),
    }


@pytest.mark.parametrize(
    ("terms", "weights", "told"),
    [
        ({"a": consistency}, {"b": 1.0}, r"rewards \['a'\] and weights \['b'\] must have the same names"),
        ({"a": consistency}, {"a": 1.0, "b": 1.0}, "must have the same names"),
        ({}, {}, "and some"),
        ({"a": consistency}, {"a": -0.1}, "weight of reward a must not be negative, got -0.1"),
        ({"a": consistency}, {"a": math.nan}, "weight of reward a must not be negative, got nan"),
    ],
)
def test_names_and_weights_that_are_refused(terms, weights, told):
    with pytest.raises(ValueError, match=told):
        WeightedRewards(terms, weights)


@pytest.mark.parametrize(
    ("reward", "told", "row"),
    [
        (torch.tensor([0.0, math.nan, math.inf]), "reward mine is nan in row 1", 1),
        (torch.tensor([0.0, 1.0, -math.inf]), "reward mine is -inf in row 2", 2),
        (torch.zeros(2), r"reward mine gave shape \(2,\) for 3 questions", None),
        (torch.zeros(3, 1), r"reward mine gave shape \(3, 1\) for 3 questions", None),
        ([1.0, 2.0, 3.0], "reward mine gave a list, not a tensor", None),
    ],
)
def test_what_is_no_reward_is_named(reward, told, row):
    with pytest.raises(RewardError, match=told) as error:
        WeightedRewards({"mine": lambda asked: reward}, {"mine": 1.0})(asked(["a", "b", "c"]))
    assert (error.value.reward, error.value.row) == ("mine", row)


def test_copy_rate():
    context = Passage().context
    assert copy_rate("The almanac was founded in 1873?", context) == 1.0
    assert copy_rate("Who founded the Almanac?", context) == 3 / 4
    assert copy_rate("?", context) == 0.0
