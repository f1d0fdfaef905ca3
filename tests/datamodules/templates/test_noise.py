from collections import Counter

import pytest

from datamodules.templates import MASK, Noise, noised_templates
from datamodules.wrong_input import WrongInput

OWN = "who saw [MASK] in [MASK] ?"
OTHER = "why is it so ?"
ENTITIES = ["Ada", "the mill"]


def kind_of(text: str) -> str:
    tokens = text.split()
    if text == OWN:
        return "leave"
    if text == OTHER:
        return "swap"
    if any(entity in text for entity in ENTITIES):
        return "replace" if tokens.count(MASK) == 1 else "insert"
    return "delete"


def test_each_disturbance_comes_as_often_as_it_should():
    templates = [OWN, OTHER] * 4000
    counts = Counter(map(kind_of, noised_templates(templates, ENTITIES, seed=0)[::2]))
    shares = {kind: count / 4000 for kind, count in counts.items()}
    expected = {"replace": 0.4, "insert": 0.2, "swap": 0.1, "delete": 0.1, "leave": 0.2}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[kind] - share) < 0.03 for kind, share in expected.items())  # four standard deviations


def test_the_same_seed_and_place_draw_the_same():
    first = noised_templates([OWN, OTHER] * 20, ENTITIES, seed=1)
    assert first == noised_templates([OWN, OTHER] * 20, ENTITIES, seed=1)
    assert first != noised_templates([OWN, OTHER] * 20, ENTITIES, seed=2)


def only(**shares) -> Noise:
    return Noise(**({"replace_mask": 0, "insert_entity": 0, "swap_template": 0, "delete": 0} | shares))


def test_what_is_deleted_is_a_token_or_a_mask():
    masks = set(noised_templates([OWN] * 60, [], 0, only(delete=1, deleted="mask")))
    assert masks == {"who saw in [MASK] ?", "who saw [MASK] in ?"}
    tokens = set(noised_templates([OWN] * 200, [], 0, only(delete=1)))
    assert len(tokens) == 6
    assert "who saw [MASK] ?" in tokens  # "in" between two masks: they are one run then


def test_a_draw_that_cannot_be_done_leaves_the_template():
    assert noised_templates([OTHER] * 9, [], 0, only(replace_mask=0.5, insert_entity=0.5)) == [OTHER] * 9
    assert noised_templates([OTHER] * 9, ENTITIES, 0, only(replace_mask=1)) == [OTHER] * 9
    assert noised_templates([OTHER] * 9, [], 0, only(delete=1, deleted="mask")) == [OTHER] * 9
    assert noised_templates(["why"] * 9, [], 0, only(delete=1)) == ["why"] * 9
    assert noised_templates([OTHER] * 9, [], 0, only(swap_template=1)) == [OTHER] * 9


@pytest.mark.parametrize("wrong", [{"replace_mask": -0.1}, {"replace_mask": 0.8}, {"deleted": "word"}])
def test_probabilities_that_cannot_be(wrong):
    with pytest.raises(WrongInput, match="noise"):
        Noise(**wrong)
