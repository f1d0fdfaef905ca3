import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from datamodules.templates import clusters, template_words, word_jaccard
from datamodules.templates.near_duplicates import NearDuplicates
from datamodules.templates.similarity import jaccard_matrix

VOCABULARY = [f"w{n}" for n in range(30)]


def random_sets(count: int, seed: int = 0) -> list[frozenset[str]]:
    rng = random.Random(seed)
    return [frozenset(rng.choices(VOCABULARY, k=rng.randrange(10))) for _ in range(count)]


def naive_matrix(a, b):
    return np.array([[len(x & y) / len(x | y) if x | y else 0.0 for y in b] for x in a]).reshape(len(a), len(b))


def test_the_matrix_is_that_of_a_naive_loop():
    a, b = random_sets(60), random_sets(45, seed=1)
    np.testing.assert_array_equal(jaccard_matrix(a, b), naive_matrix(a, b))
    np.testing.assert_array_equal(jaccard_matrix(a), naive_matrix(a, a))
    assert jaccard_matrix([], b).shape == (0, 45)
    assert jaccard_matrix([frozenset()]).tolist() == [[0.0]]


def test_five_hundred_templates_are_compared_much_faster_than_one_by_one():
    sets = random_sets(500)
    took = {}
    for name, compare in (("naive", lambda: naive_matrix(sets, sets)), ("vectorised", lambda: jaccard_matrix(sets))):
        runs = []
        for _ in range(2):
            started = time.process_time()  # of processor time, so that a busy machine does not fail it
            compare()
            runs.append(time.process_time() - started)
        took[name] = min(runs)
    assert took["vectorised"] < took["naive"] / 3


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("known_before", [True, False])
def test_near_duplicates_are_those_of_a_naive_search(threshold, known_before):
    near, kept, rng = NearDuplicates(threshold), [], random.Random(1)
    sets = random_sets(400, seed=3)
    if known_before:
        near.know(sets[:200])  # the rest brings its words later
    for words in sets:
        similarities = [word_jaccard(words, other) for other in kept]
        best = max(similarities, default=0)
        assert near.closest(words) == (similarities.index(best) if best > threshold else -1)
        if best <= threshold or rng.random() < 0.2:
            assert near.add(words) == len(kept)
            kept.append(words)


def test_near_duplicates_grow_beyond_their_first_room():
    near = NearDuplicates(0.6)
    sets = [frozenset(f"{n}-{k}" for k in range(1 + n % 40)) for n in range(3000)]
    assert [near.add(words) for words in sets] == list(range(3000))
    assert [near.closest(words) for words in sets] == list(range(3000))
    assert near.closest(sets[39] | {"one more"}) == 39


def as_texts(sets):
    return [" ".join(sorted(words)) for words in sets]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5), max_size=25), st.integers(1, 8))
def test_every_template_is_in_one_cluster_and_equal_ones_in_the_same(lists, count):
    texts = [" ".join(words) for words in lists]
    labels = clusters(texts, count)
    different = {template_words(text) for text in texts}
    assert len(labels) == len(texts)
    assert sorted(set(labels)) == list(range(min(count, len(different))))
    assert list(dict.fromkeys(labels)) == sorted(set(labels))  # counted by first appearance
    assert len({(template_words(text), label) for text, label in zip(texts, labels, strict=True)}) == len(different)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_clusters_are_those_of_scipy_where_no_two_distances_are_equal(count):
    sets = [frozenset(str(n * k % 97) for k in range(1, 4 + n % 7)) for n in range(1, 25)]
    sets = list(dict.fromkeys(sets))
    condensed = 1 - jaccard_matrix(sets)[np.triu_indices(len(sets), 1)]
    condensed += np.random.default_rng(0).uniform(0, 1e-9, len(condensed))  # no ties
    expected = fcluster(linkage(condensed, "average"), count, "maxclust")
    labels = clusters(as_texts(sets), count)
    if len(set(expected)) == count:
        ours, theirs = np.equal.outer(labels, labels), np.equal.outer(expected, expected)
        assert (ours == theirs).mean() > 0.95


def test_styles_come_apart():
    texts = ["who founded [MASK] ?", "in which year did [MASK] begin ?", "who was it that founded [MASK] ?"]
    assert clusters([*texts, "in what year did [MASK] [MASK] begin ?"], 2) == [0, 1, 0, 1]


@pytest.mark.parametrize("texts", [[], ["who ?"], ["who ?", "WHO?", "[mask] who ?"], ["[MASK]", ""]])
def test_fewer_styles_than_clusters_are_no_error(texts):
    labels = clusters(texts, 5)
    assert labels == [0] * len(texts)


def test_no_cluster_at_all_is_one():
    with pytest.raises(ValueError, match="at least one"):
        clusters(["who ?"], 0)
