"""Word-Jaccard similarity of many templates at once."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

Words = frozenset[str]


def jaccard_matrix(a: Sequence[Words], b: Sequence[Words] | None = None) -> np.ndarray:
    """Similarity of each of A word sets to each of B.

    ``|x ∩ y|`` of all pairs is one product of two sparse incidence matrices, ``|x ∪ y| = |x| + |y| − |x ∩ y|``.

    Args:
        a: A sets.
        b: B sets; None for ``a`` itself.

    Returns:
        (A, B) float64 in [0, 1], 0 where both sets are empty.
    """
    columns = {word: n for n, word in enumerate(dict.fromkeys(word for words in (*a, *(b or ())) for word in words))}
    left = _incidence(a, columns)
    right = left if b is None else _incidence(b, columns)
    common = (left @ right.T).toarray()
    union = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _incidence(sets: Sequence[Words], columns: dict[str, int]) -> sparse.csr_array:
    ends = np.cumsum([0, *(len(words) for words in sets)])
    held = np.fromiter((columns[word] for words in sets for word in words), dtype=np.int64, count=ends[-1])
    return sparse.csr_array((np.ones(len(held)), held, ends), shape=(len(sets), len(columns)))
