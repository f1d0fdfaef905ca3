"""Batches and trainers for the modules' tests."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from transformers import PreTrainedTokenizerBase

from datamodules.almanac import dialogues
from datamodules.batches import PairBatch, Seq2SeqBatch, TokenBatch
from datamodules.collate import collate_responses
from lightning_modules.exporting import export
from lightning_modules.language_model import build_seq2seq_model

Lengths = Sequence[tuple[int, int]]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny products gain nothing from more, and results are the same on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def token_batch() -> Callable[..., TokenBatch]:
    """``token_batch([(prompt, response), …], vocabulary, seed, length)``: random tokens of these lengths."""

    def make(lengths: Lengths, vocabulary: int = 600, seed: int = 0, length: int = 0) -> TokenBatch:
        rng = np.random.default_rng(seed)
        ids = [rng.integers(3, vocabulary, prompt + response) for prompt, response in lengths]
        row_ids = [f"data.jsonl:{row}" for row in range(1, len(ids) + 1)]
        return collate_responses(ids, [prompt for prompt, _ in lengths], row_ids, 0, length)

    return make


@pytest.fixture(scope="session")
def pair_batch(token_batch: Callable[..., TokenBatch]) -> Callable[..., PairBatch]:
    """``pair_batch(pairs, seed)``: random pairs, of one prompt each, without scores."""

    def make(pairs: int = 4, seed: int = 0, vocabulary: int = 600) -> PairBatch:
        rng = np.random.default_rng(seed)
        lengths = [[(int(p), int(r)) for p, r in rng.integers(2, 9, (pairs, 2))] for _ in range(2)]
        lengths[1] = [(prompt, response) for (prompt, _), (_, response) in zip(*lengths, strict=True)]
        chosen, rejected = (token_batch(side, vocabulary, seed + i, 16) for i, side in enumerate(lengths))
        prompts = ~chosen.response_mask & (chosen.attention_mask == 1)
        rejected.input_ids[prompts] = chosen.input_ids[prompts]
        return PairBatch(chosen, rejected, None)

    return make


@pytest.fixture(scope="session")
def pair_rows() -> list[dict[str, Any]]:
    """24 almanac pairs in TRL's conversational format: the right answer against another row's."""
    rows = list(islice(dialogues(0, "train", 24), 24))
    answers = [row["completion"] for row in rows]
    return [
        {"prompt": row["prompt"], "chosen": answers[i], "rejected": answers[(i + 1) % len(rows)]}
        for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory, pair_rows: list[dict[str, Any]]) -> Path:
    """The same as JSON lines."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pair_rows))
    return path


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """``trainer(**arguments)``: on the CPU, silent, leaving nothing behind but what is asked for."""

    def make(**arguments: Any) -> Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        fixed = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "default_root_dir": tmp_path}
        return Trainer(**{**quiet, **fixed, "num_sanity_val_steps": 0, "max_epochs": 1, **arguments})

    return make


T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32, "num_layers": 1, "dropout_rate": 0.0}


@pytest.fixture(scope="session")
def t5_fields() -> dict[str, Any]:
    """A tiny T5's config: 1 + 1 layers of width 16, no dropout."""
    return dict(T5)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Path]:
    """``t5_folder(seed=0, **config) -> Path`` of a tiny saved T5 with tokenizer; shared, never changed."""
    made: dict[Any, Path] = {}

    def make(seed: int = 0, **config: Any) -> Path:
        arguments = (seed, tuple(sorted(config.items())))
        if arguments not in made:
            made[arguments] = folder = tmp_path_factory.mktemp(f"t5-{seed}-")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                export(build_seq2seq_model({**T5, **config}, tokenizer), tokenizer, folder)
        return made[arguments]

    return make


@pytest.fixture(scope="session")
def seq2seq_batch() -> Callable[..., Seq2SeqBatch]:
    """``seq2seq_batch([(input, label), …], vocabulary, seed)``: random tokens of these lengths, right-padded."""

    def make(lengths: Lengths, vocabulary: int = 600, seed: int = 0) -> Seq2SeqBatch:
        rng = np.random.default_rng(seed)
        inputs, labels = (
            [torch.from_numpy(rng.integers(3, vocabulary, n)) for n in side] for side in zip(*lengths, strict=True)
        )
        pad = torch.nn.utils.rnn.pad_sequence
        return Seq2SeqBatch(
            pad(inputs, True), pad([torch.ones_like(i) for i in inputs], True), pad(labels, True, padding_value=-100)
        )

    return make
