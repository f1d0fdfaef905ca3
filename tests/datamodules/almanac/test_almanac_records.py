from itertools import islice

import pytest

from datamodules.almanac import people
from datamodules.almanac.records import NAMES, SPLITS, split_of
from datamodules.almanac.vocabulary import FAMILY_NAMES, GIVEN_NAMES
from datamodules.wrong_input import WrongInput


def test_the_first_people_are_the_same_whatever_the_count():
    assert list(people(3, "train", 5)) == list(islice(people(3, "train"), 5))
    assert list(people(3, "train", 5)) != list(people(4, "train", 5))


def test_no_name_is_in_two_splits():
    seen = {split: {person.name for person in people(0, split, 2000)} for split in SPLITS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_splits_stay_where_they_are():
    # Pinned: if these move, published test sets have become training sets.
    assert [split_of("Ada", family) for family in ("Adler", "Wood")] == ["train", "test"]
    assert {split: len(names) for split, names in NAMES.items()} == {"train": 450, "validation": 66, "test": 60}


def test_every_part_of_a_name_occurs_in_training():
    given, family = zip(*NAMES["train"], strict=True)
    assert set(given) == set(GIVEN_NAMES)
    assert set(family) == set(FAMILY_NAMES)


@pytest.mark.parametrize(("split", "count"), [("dev", 1), ("train", -1)])
def test_wrong_arguments_are_told_at_once(split, count):
    with pytest.raises(WrongInput):
        people(0, split, count)
