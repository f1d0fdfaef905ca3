"""Tokenizers that share nothing with the almanac's: one of whole words, one of smaller pieces; other templates."""

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from datamodules.almanac import almanac_tokenizer, dialogues
from tests.conftest import TINY

WORDS = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}</turn>{% endfor %}"
WORDS += "{% if add_generation_prompt %}[assistant] {% endif %}"
PIECES = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
PIECES += "{% if add_generation_prompt %}assistant: {% endif %}"


def word_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """A token a word (with the space before it) of the almanac, or of what is given; others are unknown."""
    texts = [turn["content"] for row in dialogues(0, "train", 400) for turn in (*row["prompt"], *row["completion"])]
    splitter = pre_tokenizers.Split(Regex(r" ?[\w'<|>]+|\s|[^\w\s]"), "isolated")
    pieces = [piece for text in (*texts, *more) for piece, _ in splitter.pre_tokenize_str(text)]
    pieces += [piece.strip() for piece in pieces if piece.strip()]
    names = ["<unk>", "<s>", "</turn>", "<pad>", "[user]", "[assistant]", "[system]", " "]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*names, *pieces]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</turn>",
        pad_token="<pad>",
        additional_special_tokens=["[user]", "[assistant]", "[system]"],
        chat_template=WORDS,
        clean_up_tokenization_spaces=False,
    )


def pieces_tokenizer() -> PreTrainedTokenizerBase:
    """Bytes and short pieces; ``</s>`` ends a turn."""
    tokenizer = almanac_tokenizer(560)
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    tokenizer.chat_template = PIECES
    return tokenizer


def saved_model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 1, family: str = "gpt_neox", **config
) -> str:
    """A tiny model of the tokenizer's vocabulary, saved with it."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    settings = {**TINY, "vocab_size": len(tokenizer), "initializer_range": 0.3, **ends, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def written(path: Path, rows) -> str:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
