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
        quantization: Name → ``int8`` or ``nf4``, of those whose linear layers are held in fewer bits.
        dtype: Of the forward passes.
        attn_implementation: As transformers names it (None: the best that the family has here).
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokenizers: Mapping[str, PreTrainedTokenizerBase] | None = None,
        quantization: Mapping[str, str | None] | None = None,
        dtype: str = "float32",
        attn_implementation: str | None = None,
    ):
        super().__init__()
        self.sources, self.tokenizer, self.tokenizers = dict(models), tokenizer, dict(tokenizers or {})
        self.quantization = {name: kind for name, kind in (quantization or {}).items() if kind is not None}
        self.build: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
        # A tuple is no submodule: nothing of it is checkpointed, wrapped or moved behind our back.
        self._loaded: tuple[tuple[str, str | None], PreTrainedModel] | None = None

    def name_of(self, dataloader_idx: int) -> str:
        """The model that a loader belongs to."""
        return list(self.sources)[dataloader_idx]

    def tokenizer_of(self, name: str) -> PreTrainedTokenizerBase:
        """The named model's tokenizer."""
        return self.tokenizers.get(name, self.tokenizer)

    def model(self, name: str, *, full: bool = False) -> PreTrainedModel:
        """The named model, on this module's device; the one before it is let go.

        Args:
            name: Of ``models``.
            full: With all bits of its weights, whatever ``quantization`` says.
        """
        wanted = (name, None if full else self.quantization.get(name))
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            model = build_language_model(
                self.sources[name], self.tokenizer_of(name), quantization=wanted[1], **self.build
            )
            self._loaded = (wanted, freeze(model).to(self.device))  # type: ignore[arg-type]
        return self._loaded[1]
