"""A tokenizer of the almanac's passages and questions, of T5's kind, for the encoder-decoder stages.

Every word of the almanac is one token, so that a tiny model copies a name in one step; any other text is spelt out.
Nothing is trained: the pieces are the words, and a piece's score is the logarithm of how often it occurs.
"""

import math
import re
import string
from collections import Counter
from functools import cache

from transformers import PreTrainedTokenizerBase, T5Tokenizer

from datamodules.almanac.passages import passages
from datamodules.question_tokens import add_question_tokens

SPECIAL = ("<pad>", "</s>", "<unk>")  # in T5's order: ids 0, 1, 2
ROWS = 1500
"""To take words from: enough that every name occurs."""
SPACE = "▁"
SPELT = -25.0
"""Score of a single character: a word is preferred to its letters however rare it is."""
_PIECE = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


@cache  # every stage of a run asks for the same ones
def _counts(seed: int, sentences: int) -> Counter[str]:
    """How often each word occurs."""
    texts = (row[field] for row in passages(seed, "train", ROWS, sentences) for field in ("context", "question"))
    return Counter(piece for text in texts for piece in _PIECE.findall(text))


def almanac_question_tokenizer(seed: int = 0, sentences: int = 1) -> PreTrainedTokenizerBase:
    """A T5 tokenizer whose pieces are the almanac's words.

    Args:
        seed: Of the world whose texts it knows.
        sentences: Of those texts' passages.

    Returns:
        A tokenizer with ``<pad>`` (id 0, a decoder's start), ``</s>`` at the end of a text, ``<unk>``, and the tokens
        that mark answers, templates and masks. The same arguments give the same tokenizer, and so does loading it from
        where it was saved. Characters outside printable ASCII are ``<unk>``.
    """
    counts = _counts(seed, sentences)
    total = sum(counts.values())
    scores = {f"{SPACE}{piece}": math.log(count / total) for piece, count in sorted(counts.items())}
    for character in (SPACE, *string.digits, *string.ascii_letters, *string.punctuation):
        scores.setdefault(character, SPELT)
    for mark in string.punctuation:  # behind a word, and set apart as in templates
        scores[mark] = scores.get(f"{SPACE}{mark}", SPELT)
        scores.setdefault(f"{SPACE}{mark}", SPELT)
    tokenizer = T5Tokenizer(vocab=[*((token, 0.0) for token in SPECIAL), *scores.items()], extra_ids=0)
    add_question_tokens(tokenizer)
    return tokenizer
