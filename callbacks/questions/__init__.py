"""How good, and how different, generated questions are: metrics on strings, with intervals over inputs."""

from callbacks.questions.answers import exact_match, normalise_answer, word_f1
from callbacks.questions.bleu import corpus_bleu, sentence_bleu
from callbacks.questions.metrics import OF_ONE_QUESTION, Asked, question_differences, question_metrics
from callbacks.questions.wording import copied_words, distinct, question_word, template_adherence

__all__ = [
    "OF_ONE_QUESTION",
    "Asked",
    "copied_words",
    "corpus_bleu",
    "distinct",
    "exact_match",
    "normalise_answer",
    "question_differences",
    "question_metrics",
    "question_word",
    "sentence_bleu",
    "template_adherence",
    "word_f1",
]
