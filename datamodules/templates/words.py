"""The words of questions and templates, and how much two have in common.  Pure: strings in, numbers out.

One reading of words serves the bank, the clusters, the reward and the metrics, so that none disagrees with another.
"""

import re
from collections.abc import Set
from functools import lru_cache

MASK = "[MASK]"
"""Stands for what comes from the passage. Written in this one way everywhere; other ways are read as this."""

_ANY_MASK = re.compile(r"\[mask\]", re.IGNORECASE)
_MASK_RUN = re.compile(rf"{re.escape(MASK)}(?:\s*{re.escape(MASK)})+")
_WORD = re.compile(
    r"can(?=not\b)|\w+?(?=n't\b)|n't\b"  # cannot, don't: two words each
    r"|'(?:s|re|ve|ll|d|m)\b"  # what's: two words
    r"|\w+|[^\w\s]"  # a word, or a punctuation mark
)


def words_in_order(text: str) -> list[str]:
    """Lower-cased words and punctuation marks, one by one, masks removed; "Why die?" → ``["why", "die", "?"]``."""
    return _WORD.findall(_ANY_MASK.sub(" ", text).lower().replace("’", "'"))


@lru_cache(maxsize=1 << 16)  # a bank's templates are compared again and again
def template_words(text: str) -> frozenset[str]:
    """The set of words of a question or template: lower-cased, masks removed, punctuation split off.

    A punctuation mark is a word of its own, so "die?" and "die ?" are the same, and so are "What's" and "What 's".
    """
    return frozenset(words_in_order(text))


def word_jaccard(a: Set[str], b: Set[str]) -> float:
    """``|a ∩ b| / |a ∪ b|`` in [0, 1]; 0 where both are empty (an absent template is like nothing)."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def with_masks(text: str) -> str:
    """The text with every mask written as ``MASK``, set apart by spaces, runs of masks merged into one."""
    spaced = " ".join(_ANY_MASK.sub(f" {MASK} ", text).split())
    return _MASK_RUN.sub(MASK, spaced)
