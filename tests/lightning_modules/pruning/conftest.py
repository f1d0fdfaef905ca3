"""Tiny models, some of them trained, and a function that prunes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.almanac import dialogues
from datamodules.instruction import InstructionDataModule
from lightning_modules import FineTuningModule, PruningModule

SMALL = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama_shared_keys": {"model_type": "llama", "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2},
}


@pytest.fixture(params=sorted(KINDS))
def folder(request, model_folder) -> Path:
    """A tiny random model of each kind, with weights large enough that its logits tell it from another."""
    return model_folder(**{**SMALL, **KINDS[request.param], "initializer_range": 0.2})


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return list(dialogues(0, "train", 320))


@pytest.fixture
def pruned(tokenizer, trainer, rows) -> Callable[..., PruningModule]:
    """``pruned(folder, ratio, calibration=8, **settings)``: the module after its epoch."""

    def make(folder, ratio, calibration=8, **settings) -> PruningModule:
        module = PruningModule("prune", folder, tokenizer, ratio=ratio, **settings)
        data = InstructionDataModule(rows, tokenizer, batch_size=1, val_fraction=0, rows=calibration)
        trainer().fit(module, datamodule=data)
        return module

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tokenizer, rows) -> Path:
    """A tiny Qwen2 that has learnt the almanac's answers, more or less, in seconds."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    data = InstructionDataModule(rows, tokenizer, batch_size=16, val_fraction=0)
    data.setup("fit")
    fields = {**SMALL, **KINDS["qwen2"], "max_position_embeddings": 256, "initializer_range": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = FineTuningModule("teacher", fields, tokenizer)
        optimizer = torch.optim.AdamW(module.trained_policy.parameters(), lr=5e-3)
        for _ in range(6):
            for start in range(0, len(data.train_rows), 16):
                optimizer.zero_grad()
                module._loss(data._collate(data.train_rows[start : start + 16])).loss.backward()
                optimizer.step()
    module.export(folder)
    return folder
