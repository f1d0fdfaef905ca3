"""A language model that is not the policy: how likely it finds texts."""

from typing import NamedTuple

import torch
from lightning import LightningModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import TokenBatch
from lightning_modules.language_model import ModelSource, build_language_model, freeze
from lightning_modules.response_logps import response_logps


class Likelihoods(NamedTuple):
    """Of a batch of texts."""

    row_ids: list[str]
    logps: list[float]
    """Nats, summed over a text's tokens."""
    tokens: list[int]
    """Of each text; 0 of an empty one."""


class FluencyModule(LightningModule):
    """Log-likelihoods under a causal language model.

    Takes: ``TokenBatch``. ``predict_step`` returns ``Likelihoods``.

    Args:
        model: The language model.
        tokenizer: Its own.
        dtype: Of the model; log-probabilities are summed in float32.
    """

    def __init__(self, model: ModelSource, tokenizer: PreTrainedTokenizerBase, *, dtype: str = "float32"):
        super().__init__()
        self.source, self.tokenizer, self.dtype_name = model, tokenizer, dtype
        self._model: tuple[PreTrainedModel] | None = None  # no submodule: nothing of it is checkpointed

    @torch.no_grad()
    def predict_step(self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0) -> Likelihoods:
        """One number a text."""
        if self._model is None:
            model = freeze(build_language_model(self.source, self.tokenizer, dtype=self.dtype_name))
            self._model = (model.to(self.device),)  # type: ignore[arg-type]
        logps = response_logps(self._model[0], batch, vocabulary=len(self.tokenizer))
        return Likelihoods(batch.row_ids, logps.tolist(), batch.response_mask.sum(1).tolist())
