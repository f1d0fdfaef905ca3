"""Exact match and F1 of answers, as SQuAD's evaluation script counts them.  Pure: strings in, numbers out."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower-cased, without punctuation, articles and spare spaces (Rajpurkar et al., 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truth: str) -> float:
    """1 where the two are the same once normalised, else 0."""
    return float(normalise_answer(answer) == normalise_answer(truth))


def word_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall of normalised words, in [0, 1]; of empty ones, whether both are."""
    ours, theirs = normalise_answer(answer).split(), normalise_answer(truth).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
