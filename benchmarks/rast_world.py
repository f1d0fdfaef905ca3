"""What RAST's benchmark runs on: the almanac's passages, and small T5s that have learnt to end their questions."""

import functools
import random
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from datamodules.almanac.passages import passages
from datamodules.almanac.question_tokenizer import almanac_question_tokenizer
from datamodules.batches import QuestionBatch
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_generation import QuestionGenerationDataModule
from datamodules.question_rows import read_examples
from datamodules.style_transfer import StyleTransferDataModule
from datamodules.templates import TemplateExtractor, bank_of_examples, clusters, template_words
from lightning_modules import RASTModule
from lightning_modules.exporting import export
from lightning_modules.language_model import build_seq2seq_model
from lightning_modules.rast import Diversity, StyleRetriever, consistency
from lightning_modules.sampling import Sampling

ROWS = 1500
SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=30, max_new_tokens=32)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 96, "d_kv": 24, "num_heads": 4, "d_ff": 288, "num_layers": 2},
    "256 × 4": {"d_model": 256, "d_kv": 32, "num_heads": 8, "d_ff": 1024, "num_layers": 4},
}


class World(NamedTuple):
    """Data of all sizes."""

    rows: list[dict[str, Any]]
    tokenizer: PreTrainedTokenizerBase
    extractor: TemplateExtractor
    templates: list[str]
    encoder: QuestionEncoder
    batches: list[QuestionBatch]


def make_world(batches: int, batch_size: int, sentences: int) -> World:
    """Passages, their templates' bank, and batches to learn from; the same each time."""
    rows, tokenizer = list(passages(0, "train", ROWS, sentences)), almanac_question_tokenizer(sentences=sentences)
    extractor = TemplateExtractor()
    bank = bank_of_examples(read_examples(rows).examples, extractor)
    data = StyleTransferDataModule(rows, tokenizer, bank=bank, val_fraction=0.0)
    data.setup("fit")
    shuffled = random.Random(0).sample(data.train_rows, batches * batch_size)
    pieces = [shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size)]
    return World(rows, tokenizer, extractor, bank.texts, data.encoder, [data.collate(piece) for piece in pieces])


def save_generator(world: World, size: Mapping[str, Any], folder: Path, steps: int) -> None:
    """Teach a T5 to ask by templates for so many steps: not well, but its questions end by themselves."""
    torch.manual_seed(0)
    fields = {"model_type": "t5", "dropout_rate": 0.0, "initialisation": "copying", **size}
    model = build_seq2seq_model(fields, world.tokenizer).train()
    data = QuestionGenerationDataModule(world.rows, world.tokenizer, task="style", val_fraction=0.0)
    data.setup("fit")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    draw = random.Random(0)
    for step in range(steps):
        batch = data.collate(draw.sample(data.train_rows, 16))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50)
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    export(model, world.tokenizer, folder)


def make_module(world: World, folder: Path, count: int) -> RASTModule:
    """The module, all of whose models start from the same weights."""
    bank = SimpleNamespace(texts=world.templates)
    retriever = functools.partial(StyleRetriever, folder, world.tokenizer, bank, cluster=clusters)
    return RASTModule(
        folder,
        world.tokenizer,
        world.encoder,
        retriever,
        world.extractor.of,
        {"consistency": consistency, "diversity": Diversity(template_words)},
        {"consistency": 1.0, "diversity": 0.1},
        qa=folder,
        vanilla=folder,
        templates_per_passage=count,
        sampling=SAMPLING,
        warmup=0.0,
    )
