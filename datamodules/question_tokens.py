"""The tokens that question generation adds to a tokenizer."""

from transformers import AddedToken, PreTrainedTokenizerBase

from datamodules.templates.words import MASK
from datamodules.wrong_input import WrongInput

HIGHLIGHT = "<hl>"
"""Before and after the answer in its passage."""
SEPARATOR = "<sep>"
"""Between the passage and a template, or a question."""
QUESTION_TOKENS = (HIGHLIGHT, SEPARATOR, MASK)


def add_question_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add what the tokenizer lacks of ``QUESTION_TOKENS``; a model's embeddings have to grow by as many rows.

    Returns:
        The tokens that were added, in the order of their new ids.
    """
    lacking = lacking_tokens(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in lacking], special_tokens=True)
    return lacking


def lacking_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Those of ``QUESTION_TOKENS`` that the tokenizer does not know as one token."""
    return [
        token
        for token in QUESTION_TOKENS
        if len(tokenizer(token, add_special_tokens=False)["input_ids"]) != 1 or token not in tokenizer.get_vocab()
    ]


def check_question_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Pass if the tokenizer has all that the encoder-decoder stages need.

    Raises:
        WrongInput: It lacks one of ``QUESTION_TOKENS``, an end of text or a padding token.
    """
    where = f"tokenizer {tokenizer.name_or_path}".strip()
    if lacking := lacking_tokens(tokenizer):
        raise WrongInput(f"the tokenizer lacks {', '.join(lacking)}", where, "add them with add_question_tokens")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise WrongInput("the tokenizer has no end-of-text or no padding token", where, "take that of a T5 or BART")
