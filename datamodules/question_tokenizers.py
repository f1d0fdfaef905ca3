"""Tokenizers for question generation: a published one with the marks added, or one trained on the data."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from datamodules.encoding import load_tokenizer
from datamodules.question_rows import read_examples
from datamodules.question_tokens import add_question_tokens
from datamodules.wrong_input import WrongInput

SPECIAL = ("<pad>", "</s>")


def load_question_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or Hub id, with what it lacks of ``QUESTION_TOKENS``.

    Raises:
        WrongInput: There is none, or it has no end of text.
    """
    tokenizer = load_tokenizer(source)
    add_question_tokens(tokenizer)
    return tokenizer


def shared_tokenizer(source: str, shared_by: Sequence[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of several models that hand each other token ids.

    Args:
        source: Whose it is.
        shared_by: Folders or Hub ids of models that must have the same one.

    Raises:
        WrongInput: One of them writes another id for a token.
    """
    tokenizer = load_question_tokenizer(source)
    for other in dict.fromkeys(shared_by):
        if other == source:
            continue
        theirs = load_question_tokenizer(other).get_vocab()
        differing = set(tokenizer.get_vocab().items()) ^ set(theirs.items())
        if differing:
            raise WrongInput(
                f"the tokenizers differ, e.g. in {min(differing)[0]!r}",
                f"{source} and {other}",
                "start generators and QA models from one kind of model",
            )
    return tokenizer


def train_question_tokenizer(data: str, size: int = 4000) -> PreTrainedTokenizerBase:
    """A tokenizer for a model that starts from nothing: byte-level BPE of the data's passages and questions.

    Args:
        data: A file or Hub id; see ``question_rows``.
        size: Tokens, the marks not counted. Every text can be written, whatever the size.

    Returns:
        ``<pad>`` is id 0 and ``</s>`` id 1. The same data give the same tokenizer.

    Raises:
        WrongInput: Fewer tokens than bytes and special ones, or a row that cannot be used.
    """
    least = 256 + len(SPECIAL)
    if size < least:
        raise WrongInput(f"a vocabulary of {size} tokens", "vocabulary_size", f"{least} or more: each byte is one")
    file = Path(data)
    backend = Tokenizer.from_str(_trained(data, size, file.stat().st_mtime_ns if file.is_file() else 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[1])
    add_question_tokens(tokenizer)
    return tokenizer


@cache
def _trained(data: str, size: int, modified: int) -> str:
    """Its JSON; a stage asks for it more than once."""
    examples = read_examples(data).examples
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    passages = dict.fromkeys(example.context for example in examples)
    backend.train_from_iterator([*passages, *(example.question for example in examples)], trainer)
    return backend.to_str()
