"""Modules that only look: several frozen models, one in memory at a time."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_modules.language_model import ModelSource, build_language_model, freeze


class FrozenModelsModule(LightningModule):
    """Base of the modules whose ``predict`` loop has a loader a model.

    Args:
        models: Name → Hugging Face folder or Hub id, in the order of the datamodule's loaders.
        tokenizer: Of all that have none of their own.
        tokenizers: Name → its own.
        dtype: Of the forward passes.
        attn_implementation: As transformers names it (None: the best that the family has here).
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokenizers: Mapping[str, PreTrainedTokenizerBase] | None = None,
        dtype: str = "float32",
        attn_implementation: str | None = None,
    ):
        super().__init__()
        self.sources, self.tokenizer, self.tokenizers = dict(models), tokenizer, dict(tokenizers or {})
        self.build: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
        # A tuple is no submodule: nothing of it is checkpointed, wrapped or moved behind our back.
        self._loaded: tuple[str, PreTrainedModel] | None = None

    def name_of(self, dataloader_idx: int) -> str:
        """The model that a loader belongs to."""
        return list(self.sources)[dataloader_idx]

    def tokenizer_of(self, name: str) -> PreTrainedTokenizerBase:
        """The named model's tokenizer."""
        return self.tokenizers.get(name, self.tokenizer)

    def model(self, name: str) -> PreTrainedModel:
        """The named model, on this module's device; the one before it is let go."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            model = freeze(build_language_model(self.sources[name], self.tokenizer_of(name), **self.build))
            self._loaded = (name, model.to(self.device))  # type: ignore[arg-type]
        return self._loaded[1]
