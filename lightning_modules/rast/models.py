"""RAST's models: a policy and a retriever that are trained, and what is only looked at."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.exporting import export
from lightning_modules.language_model import ModelSource, build_seq2seq_model, freeze
from lightning_modules.loading import DTYPES
from lightning_modules.rast.optimisation import TwoOptimizersModule
from lightning_modules.rast.retriever import BANK_ENCODER, StyleRetriever


class Frozen(NamedTuple):
    """Models that are only looked at. A tuple is no submodule: not trained, not checkpointed, not synchronised."""

    reference: PreTrainedModel
    """p_θ*, the policy as it starts."""
    qa: PreTrainedModel | None
    vanilla: PreTrainedModel | None
    """Writes the first question."""

    def to(self, device: torch.device) -> "Frozen":
        """The same models there; nothing happens where they are already."""
        return Frozen(*(None if model is None else model.to(device) for model in self))  # type: ignore[arg-type]


class RASTModels(TwoOptimizersModule):
    """Builds the models, says which of them are trained, and exports those.

    Args:
        name: See ``PolicyModule``.
        generator: Where the policy starts; p_θ* is a copy of it.
        tokenizer: See ``PolicyModule``.
        retriever: Makes the retriever.
        qa: The reward's QA model, if there is one.
        vanilla: Writes the first questions, if it does.
        templates_per_passage: K: the bank must have so many.
        train_retriever: False keeps it as it starts.
        frozen_dtype: Of the frozen models; None: the policy's.
        **settings: See ``TwoOptimizersModule``.

    Raises:
        WrongInput: The dtype is not known.
    """

    build_policy = staticmethod(build_seq2seq_model)

    def __init__(
        self,
        name: str,
        generator: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        retriever: Callable[[], StyleRetriever],
        *,
        qa: ModelSource | None,
        vanilla: ModelSource | None,
        templates_per_passage: int,
        train_retriever: bool,
        frozen_dtype: str | None,
        **settings: Any,
    ):
        super().__init__(name, generator, tokenizer, **settings)
        self.qa_source, self.vanilla_source, self.make_retriever = qa, vanilla, retriever
        self.templates_per_passage, self.train_retriever = templates_per_passage, train_retriever
        self.frozen_dtype: str = frozen_dtype or self.build["dtype"]
        if self.frozen_dtype not in DTYPES:
            what, mend = f"unknown dtype {self.frozen_dtype!r}", f"one of {', '.join(DTYPES)}"
            raise WrongInput(what, f"stage {name}: frozen_dtype", mend)
        self.retriever: StyleRetriever | None = None
        self._frozen: Frozen | None = None

    def configure_model(self) -> None:
        """Build policy, retriever and frozen models, once.

        Raises:
            WrongInput: A model cannot be built, or the bank is too small for K.
        """
        if self._frozen is not None:
            return
        super().configure_model()
        assert self.policy is not None
        build: dict[str, Any] = self.build | {"dtype": self.frozen_dtype}
        qa, vanilla = (
            None if source is None else freeze(build_seq2seq_model(source, self.tokenizer, **build))
            for source in (self.qa_source, self.vanilla_source)
        )
        self.retriever = self.make_retriever()
        self.retriever.check_count(self.templates_per_passage, f"stage {self.name}: templates_per_passage")
        if not self.train_retriever:
            self.retriever.query_encoder.requires_grad_(False)
        reference = copy.deepcopy(self.policy.eval()).to(DTYPES[self.frozen_dtype])  # type: ignore[arg-type]
        self._frozen = Frozen(freeze(reference), qa, vanilla)

    def train(self, mode: bool = True) -> "RASTModels":
        """Dropout stays off, whoever asks: with it, the gradient would be of another distribution than the samples'."""
        return super().train(False)

    def trained_parts(self) -> Sequence[nn.Module]:
        """Policy and query encoder."""
        assert self.retriever is not None
        return [self.trained_policy, self.retriever.query_encoder][: 1 + self.train_retriever]

    def export(self, folder: str | Path) -> None:
        """Write the policy, and inside its folder ``retriever``: the query encoder and its bank's encoder.

        Raises:
            RuntimeError: There is no policy yet.
        """
        if self.retriever is None:
            raise RuntimeError("nothing to export: the policy has not been built")
        retriever, tokenizer = self.retriever, self.retriever.tokenizer
        parts = {"": retriever.query_encoder, f"/{BANK_ENCODER}": retriever.bank_encoder}
        beside = {f"retriever{name}": (encoder, tokenizer) for name, encoder in parts.items()}
        export(self.trained_policy, self.tokenizer, Path(folder), beside)
