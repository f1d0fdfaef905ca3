"""What questions are made of: how varied, how close to a template, how much copied."""

from collections.abc import Sequence
from typing import NamedTuple

from callbacks.questions.bleu import tokens
from datamodules.templates.words import template_words, word_jaccard, words_in_order

QUESTION_WORDS = ("what", "which", "who", "when", "where", "why", "how", "other")
_SAME = {"whom": "who", "whose": "who"}


class Share(NamedTuple):
    """A part of a whole, kept apart so that shares of many can be pooled."""

    part: int
    whole: int


def distinct(questions: Sequence[str], order: int) -> Share:
    """Different n-grams of 13a tokens, lower-cased, among all of the questions: distinct-n is part / whole.

    Source: Li et al. (2016), here within the questions asked about one input.
    """
    grams: list[tuple[str, ...]] = []
    for question in questions:
        words = tokens(question.lower())
        grams += [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return Share(len(set(grams)), len(grams))


def question_word(question: str) -> str:
    """The first word of ``QUESTION_WORDS`` in it ("In which year …" is "which"), or ``"other"``."""
    words = (_SAME.get(word, word) for word in words_in_order(question))
    return next((word for word in words if word in QUESTION_WORDS[:-1]), "other")


def template_adherence(question: str, template: str) -> float:
    """r_div: ``|y ∩ z| / |y ∪ z|`` of word sets without masks, in [0, 1]; 0 for no template."""
    return word_jaccard(template_words(question), template_words(template)) if template else 0.0


def copied_words(question: str, context: str) -> Share:
    """Words of the question, lower-cased and without punctuation, that stand in the passage."""
    words = [word for word in tokens(question.lower()) if any(character.isalnum() for character in word)]
    held = set(tokens(context.lower()))
    return Share(sum(word in held for word in words), len(words))
