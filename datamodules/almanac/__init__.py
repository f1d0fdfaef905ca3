"""The embedded world: a fictional town's records, made from a seed in any amount, with nothing to download.

``dialogues`` are conversations whose answers ``mark`` can judge; ``passages`` come with questions in many styles;
``almanac_tokenizer`` and, for encoder-decoders, ``almanac_question_tokenizer`` know their words. People of test and
validation never occur in training.
"""

from datamodules.almanac.dialogues import dialogues
from datamodules.almanac.marking import Mark, mark
from datamodules.almanac.passages import passages
from datamodules.almanac.question_tokenizer import almanac_question_tokenizer
from datamodules.almanac.records import Person, people
from datamodules.almanac.tokenizer import almanac_tokenizer

__all__ = [
    "Mark",
    "Person",
    "almanac_question_tokenizer",
    "almanac_tokenizer",
    "dialogues",
    "mark",
    "passages",
    "people",
]
