"""Workloads served by frozen models."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from datamodules.batches import Workload
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.language_model import ModelSource
from lightning_modules.serving.engine import Engine
from lightning_modules.serving.serve import Served, serve


class ServingModule(FrozenModelsModule):
    """Serves workloads with one or several frozen models.

    Takes: ``Workload``. ``predict_step`` returns ``list[Served]``, in the order in which the requests ended.

    Args:
        models: Name → model; see ``FrozenModelsModule``.
        tokenizer: Shared by all.
        engine: Of all models.
        **settings: See ``FrozenModelsModule``.
    """

    def __init__(
        self, models: Mapping[str, ModelSource], tokenizer: PreTrainedTokenizerBase, engine: Engine, **settings: Any
    ):
        super().__init__(models, tokenizer, **settings)
        self.engine = engine

    def predict_step(self, batch: Workload, batch_idx: int, dataloader_idx: int = 0) -> list[Served]:
        """Serve one workload."""
        return serve(self.model(batch.model), self.tokenizer, batch, self.engine)
