"""A tokenizer trained on the almanac in process, of Qwen2's kind.

Beside a ``qwen2`` model transformers always loads a ``Qwen2Tokenizer``, which brings its own splitting of text (every
digit apart) whatever ``tokenizer.json`` says. So it is one from the start: what was trained is what will be loaded.
Prices and years become one token each all the same, as added tokens.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from tokenizers import pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2Tokenizer

from datamodules.almanac.dialogues import dialogues
from datamodules.almanac.passages import passages
from datamodules.almanac.vocabulary import CLOSING_HOURS, PRICES, YEARS
from datamodules.wrong_input import WrongInput

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NUMBERS = [f" {number}" for number in (*range(max(PRICES.stop, CLOSING_HOURS.stop)), *YEARS)]
"""Tokens of their own, with the space before them: to compare two is then to compare two embeddings."""
ROWS = 1500
"""Of each kind, to train on: enough that every name is seen some fifty times."""
LEAST_VOCABULARY = 256 + 3 + len(NUMBERS)


def _texts(seed: int) -> Iterator[str]:
    """What the almanac's people say, ask and write."""
    for answers in ("short", "long"):
        for row in dialogues(seed, "train", ROWS, answers):
            yield from (f"{turn['role']}\n{turn['content']}\n" for turn in (*row["prompt"], *row["completion"]))
    for row in passages(seed, "train", ROWS):
        yield from (row["context"], row["question"], row["answer"])


@cache  # every stage of a run asks for the same one
def _trained(vocab_size: int, seed: int) -> str:
    """Vocabulary and merges, in JSON."""
    untrained = Qwen2Tokenizer().backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    untrained.train_from_iterator(_texts(seed), trainer)
    model: dict[str, Any] = json.loads(untrained.to_str())["model"]
    return json.dumps({part: model[part] for part in ("vocab", "merges")})


def almanac_tokenizer(vocab_size: int = 1024, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer: byte-level BPE, so that any text can be told (in Unicode's normal form C, as in Qwen2).

    Args:
        vocab_size: Tokens in all, the 256 bytes, 3 special tokens and the numbers included, at most: once every word of
            the almanac is one token (at about 870) there is nothing left to merge.
        seed: Of the world whose texts it is trained on.

    Returns:
        A tokenizer with ChatML template, ``<|im_end|>`` to end a turn and ``<|endoftext|>`` to pad. The same arguments
        give the same tokenizer, and so does loading it from where it was saved.

    Raises:
        WrongInput: If the vocabulary does not even hold the bytes and numbers.
    """
    if vocab_size < LEAST_VOCABULARY:
        raise WrongInput(f"a vocabulary of {vocab_size}", "almanac, vocab_size", f"take {LEAST_VOCABULARY} or more")
    trained = json.loads(_trained(vocab_size - 3 - len(NUMBERS), seed))
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=cast(
            list[str], [tuple(merge) for merge in trained["merges"]]
        ),  # what it takes and what it declares differ
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    numbers: list[str | AddedToken] = [AddedToken(number, normalized=False) for number in NUMBERS]
    tokenizer.add_tokens(numbers)
    return tokenizer
