"""Templates grouped by style, so that one of each group asks in a way of its own."""

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import DisjointSet, linkage
from scipy.spatial.distance import squareform

from datamodules.templates.similarity import jaccard_matrix
from datamodules.templates.words import template_words


def clusters(templates: Sequence[str], count: int) -> list[int]:
    """Average linkage on the Jaccard distance of word sets, cut into ``count`` clusters.

    Source: RAST (arXiv 2310.14503), Section 3.3: one template a cluster is drawn, so that the styles differ.

    Args:
        templates: N templates, the best first; duplicates are allowed.
        count: K, at least 1.

    Returns:
        N cluster numbers, counted from 0 by first appearance: the first template of cluster k comes before that of
        k + 1. There are ``min(K, number of different word sets)`` clusters, so that no style is in two.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"needs at least one cluster, got {count}")
    sets = [template_words(template) for template in templates]
    different = list(dict.fromkeys(sets))
    groups: DisjointSet = DisjointSet(range(len(different)))
    if len(different) > count:
        similarity = jaccard_matrix(different)
        tree = linkage(squareform(1 - similarity, checks=False), method="average")
        members = list(range(len(different)))  # of each node of the tree, any one leaf
        for left, right in tree[: len(different) - count, :2].astype(np.int64):
            groups.merge(members[left], members[right])
            members.append(members[left])
    place = {words: n for n, words in enumerate(different)}
    roots = [groups[place[words]] for words in sets]
    numbers = {root: n for n, root in enumerate(dict.fromkeys(roots))}
    return [numbers[root] for root in roots]
