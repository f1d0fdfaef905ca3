"""Which sampler pays on a CPU: answers in batches against continuous batching, the same tokens by construction.

``python -m benchmarks.sampling`` prints a table; ``--write`` also puts it into ``benchmarks/sampling.md``. Random Qwen2
models, one thread; rates are tokens a second of processor time, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.almanac import almanac_tokenizer
from datamodules.batches import PromptBatch, SamplerSetting
from datamodules.collate import collate_prompts
from lightning_modules import SamplingModule
from lightning_modules.language_model import build_language_model
from lightning_modules.sampling import Sampling

MODELS: dict[str, tuple[dict[str, int], int, tuple[int, int]]] = {
    # config, prompts, their tokens
    "tiny": (
        {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
        120,
        (8, 40),
    ),
    "small": (
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
        32,
        (16, 64),
    ),
}
NEW = 48
STOPS = {"all of 48 tokens": [], "of 1 to 48 tokens": list(range(40, 100))}
"""Answers' lengths, by the tokens that end one: of 1024, so that a random model stops after 17 on average."""


class Loaded(SamplingModule):
    """Samples from a model in memory."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **settings: Any):
        super().__init__({"model": {}}, tokenizer, Sampling(max_new_tokens=NEW), **settings)
        self._loaded = ("model", model)


def rate(module: Loaded, batch: PromptBatch) -> float:
    """Tokens a second of processor time."""
    start = time.process_time()
    tokens = sum(sum(got.tokens) for got in module.predict_step(batch, 0))
    return tokens / (time.process_time() - start)


def rows() -> list[str]:
    tokenizer = almanac_tokenizer()
    lines = []
    for name, (fields, count, (shortest, longest)) in MODELS.items():
        torch.manual_seed(0)
        shared = {"model_type": "qwen2", "tie_word_embeddings": True, "num_key_value_heads": 2}
        model = build_language_model({**shared, **fields, "initializer_range": 0.05}, tokenizer).eval()
        draw = random.Random(0)
        ids = [[draw.randrange(3, 500) for _ in range(draw.randint(shortest, longest))] for _ in range(count)]
        batch = collate_prompts(sorted(ids, key=len), [str(i) for i in range(count)], 0, 0)
        for lengths, stops in STOPS.items():
            for size in (16, count):
                found = []
                samplers: list[SamplerSetting] = ["batched", "continuous"]
                for sampler in samplers:
                    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, *stops])
                    found.append(rate(Loaded(model, tokenizer, sampler=sampler, batch_size=size), batch))
                batched, continuous = found
                cells = f"{batched:.0f} | {continuous:.0f} | {continuous / batched:.2f}"
                lines.append(f"| {name} | {lengths} | {size} | {cells} |")
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="also write benchmarks/sampling.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Samplers on a CPU, written by `python -m benchmarks.sampling --write`",
        "",
        "Tokens a second of processor time, one thread, float32, random Qwen2 models. Continuous batching loses where",
        "answers are of like length: without a GPU's kernels its attention is over the whole of its cache. So",
        "`sampler=auto` is batched on a CPU. On CUDA it is continuous, which has not been measured here.",
        f"torch {torch.__version__}.",
        "",
        "| model | answers | under way | batched | continuous | continuous / batched |",
        "|---|---|---:|---:|---:|---:|",
        *rows(),
    ]
    if options.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
