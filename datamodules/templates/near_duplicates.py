"""The search for near duplicates among very many word sets, without looking at all of them."""

from array import array
from collections import Counter
from collections.abc import Iterable
from math import floor

import numpy as np

Words = frozenset[str]
PADDING = 0  # the number of no word


class NearDuplicates:
    """Word sets among which one more similar than a threshold is found fast.

    Words are in one order, rare ones first. If J(x, y) > t then ``|x ∩ y| ≥ m = ⌊t·|x|⌋ + 1``, so x and y share a word
    among the first ``|x| − m + 1`` of x and as many (by its own size) of y: only those are indexed (prefix filter;
    Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", 2007). Any order is correct as long as it never
    changes; so words seen later come before all earlier ones. What the filter leaves is compared in one NumPy pass.

    Args:
        threshold: t, in [0, 1).
    """

    def __init__(self, threshold: float):
        self.threshold = threshold
        self._words: dict[str, int] = {}  # word → its number from 1 on: the greater, the earlier in the order
        self._marked = np.zeros(1024, dtype=np.int8)  # by word number; all 0 between two searches
        self._sizes = np.zeros(1024, dtype=np.int64)
        self._members = np.full((16, 1024), PADDING, dtype=np.int32)  # a column of word numbers a set
        self._indexed: dict[int, array[int]] = {}  # a word among the first of a set → such sets, oldest first
        self._same: dict[Words, int] = {}
        self._count = 0

    def know(self, sets: Iterable[Words]) -> None:
        """Put the words of sets that are about to come in order, rare ones first (for speed, not correctness)."""
        counts = Counter(word for words in sets for word in words if word not in self._words)
        for word in sorted(counts, key=lambda word: (-counts[word], word)):
            self._words[word] = len(self._words) + 1
        if len(self._words) >= len(self._marked):
            self._marked = np.zeros(2 * len(self._words), dtype=np.int8)

    def add(self, words: Words) -> int:
        """Take in a set; returns its number, counted from 0."""
        self.know([words])
        number, self._count = self._count, self._count + 1
        self._make_room(len(words))
        held = sorted((self._words[word] for word in words), reverse=True)
        self._sizes[number] = len(held)
        self._members[: len(held), number] = held
        for word in held[: self._prefix(len(held))]:
            self._indexed.setdefault(word, array("q")).append(number)
        self._same.setdefault(words, number)
        return number

    def closest(self, words: Words) -> int:
        """Number of the most similar set above the threshold (the oldest of equals), or −1."""
        if words in self._same and words:
            return self._same[words]
        known = sorted((self._words[word] for word in words if word in self._words), reverse=True)
        first = known[: max(0, self._prefix(len(words)) - (len(words) - len(known)))]  # words no set has come first
        candidates = [np.frombuffer(self._indexed[word], dtype=np.int64) for word in first if word in self._indexed]
        if not candidates:
            return -1
        numbers = np.concatenate(candidates)
        sizes = self._sizes[numbers]
        numbers = numbers[(sizes > self.threshold * len(words)) & (sizes * self.threshold < len(words))]
        if not len(numbers):
            return -1
        self._marked[known] = 1
        common = self._marked.take(self._members.take(numbers, axis=1)).sum(axis=0, dtype=np.int64)
        self._marked[known] = 0
        similarity = common / (self._sizes[numbers] + len(words) - common)
        best = similarity.max()
        return int(numbers[similarity == best].min()) if best > self.threshold else -1

    def _prefix(self, size: int) -> int:
        """How many of the first words of a set of this size are enough to find it by."""
        return size - floor(self.threshold * size - 1e-9)

    def _make_room(self, size: int) -> None:
        width, room = self._members.shape
        wider, longer = max(0, size - width), room if self._count > room else 0
        if wider or longer:
            self._members = np.pad(self._members, ((0, wider), (0, longer)), constant_values=PADDING)
            self._sizes = np.pad(self._sizes, (0, longer))
