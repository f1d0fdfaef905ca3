"""StyleRetriever: which templates of a bank suit a first question's template (arXiv 2310.14503)."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import ModelSource, build_encoder, freeze
from lightning_modules.rast.drawing import draw_templates
from lightning_modules.rast.embedding import embedded
from lightning_modules.rast.styles import Candidates, Clustering, Style, Styles, TemplateBank, best_of_clusters
from lightning_modules.rast.template_index import TemplateIndex

BANK_ENCODER = "bank_encoder"
"""Folder, beside an exported query encoder, of the encoder that its bank's vectors are of."""


class StyleRetriever(nn.Module):
    """A query encoder that is trained, and a bank's vectors that are not.

    Both sides are encoded alike: tokens' last states averaged under the mask, then normalised to length 1. The bank's
    vectors are made by the weights that the query encoder starts from; ``export`` keeps these weights beside the
    trained ones, so that a retriever that is loaded again has the bank that it was trained with.

    Args:
        source: The encoder: any Hugging Face one, or an exported query encoder.
        tokenizer: Goes with it.
        bank: The templates.
        candidates: How many the policy chooses among.
        cluster: Groups candidates by style, see ``Clustering``. None: templates are drawn independently.
        index: None for exact search, else FAISS; see ``TemplateIndex``.
        max_length: Tokens of a template that are read.
        batch_size: Templates encoded at one time.
        dtype: Of the weights.

    Raises:
        WrongInput: No candidates, or an index that is not known.
    """

    def __init__(
        self,
        source: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        bank: TemplateBank,
        *,
        candidates: int = 100,
        cluster: Clustering | None = None,
        index: str | None = None,
        max_length: int = 64,
        batch_size: int = 256,
        dtype: str = "float32",
    ):
        super().__init__()
        if min(candidates, max_length, batch_size) < 1:
            told = f"candidates {candidates}, max_length {max_length}, batch_size {batch_size}"
            raise WrongInput(told, "retriever", "at least 1")
        self.tokenizer, self.bank, self.candidates, self.cluster = tokenizer, bank, candidates, cluster
        self.max_length, self.batch_size = max_length, batch_size
        self.query_encoder = build_encoder(source, tokenizer, dtype=dtype).eval()
        kept = Path(source) / BANK_ENCODER if isinstance(source, str | Path) else None
        if kept is not None and kept.is_dir():
            start = build_encoder(kept, tokenizer, dtype=dtype)
        else:
            start = copy.deepcopy(self.query_encoder)
        # A tuple is no submodule: the bank's side stays out of the optimizer, the checkpoint and DDP.
        self._bank_encoder = (freeze(start),)
        self._index = TemplateIndex(self.query_encoder.config.hidden_size, index)

    @property
    def bank_encoder(self) -> PreTrainedModel:
        """The frozen encoder of the bank."""
        return self._bank_encoder[0]

    def check_count(self, count: int, setting: str) -> None:
        """Pass if ``count`` different templates can be had for an input.

        Raises:
            WrongInput: The bank is empty, or bank or candidates are too few.
        """
        size = len(self.bank.texts)
        if size == 0:
            raise WrongInput("the bank of templates is empty", "bank", "give questions that end in '?', or templates")
        if min(size, self.candidates) < count:
            few = f"the bank has {size}" if size < self.candidates else f"candidates is {self.candidates}"
            raise WrongInput(f"{count} templates an input are wanted and {few}", setting, "ask for fewer, or give more")

    def bank_vectors(self) -> Tensor:
        """(bank, h): the bank's vectors; templates that are new to it are encoded now."""
        new = self.bank.texts[len(self._index.vectors) :]
        encoder = self.bank_encoder.to(self.query_encoder.device)  # type: ignore[arg-type]
        for start in range(0, len(new), self.batch_size * 64):  # in large pieces: each is one copy of the index
            piece = new[start : start + self.batch_size * 64]
            with torch.no_grad():
                parts = [
                    self._encode(encoder, piece[i : i + self.batch_size]) for i in range(0, len(piece), self.batch_size)
                ]
            self._index.add(torch.cat(parts))
        return self._index.vectors

    def embed(self, queries: Sequence[str]) -> Tensor:
        """(B, h) of the queries, differentiable."""
        return self._encode(self.query_encoder, queries)

    def retrieve(self, queries: Sequence[str], own: Tensor) -> Candidates:
        """The bank's nearest templates, each query's own one left out.

        Args:
            queries: B templates z0.
            own: (B,) int64, positions in the bank, -1 for none.

        Raises:
            WrongInput: The bank is empty or does not reach that far.
        """
        bank = self.bank_vectors()
        if len(own) and int(own.max()) >= len(bank):
            told = f"an example's own template is number {int(own.max())} of {len(bank)}"
            raise WrongInput(told, "bank", "use the data's own bank")
        count = min(self.candidates, len(bank) - bool((own >= 0).any()))
        if count < 1:
            self.check_count(2, "bank")
        embedded = self.embed(queries)
        positions = self._index.search(embedded, count, own.to(embedded.device))
        scores = (bank.to(embedded)[positions] @ embedded[:, :, None]).squeeze(-1)
        return Candidates(positions, scores, scores.float().log_softmax(-1))

    def draw(self, queries: Sequence[str], own: Tensor, count: int, generator: torch.Generator | None = None) -> Styles:
        """Retrieve, cluster, and draw one template a cluster.

        Args:
            queries: B templates z0.
            own: (B,) int64, see ``retrieve``.
            count: K.
            generator: Of the draws, on the CPU.

        Raises:
            WrongInput: Too few templates, or the clustering does not keep to its contract.
        """
        found = self.retrieve(queries, own)
        if found.positions.shape[1] < count:
            self.check_count(count + 1, "templates")  # own ones left out
        if not found.scores.isfinite().all():
            mend = "start from sound weights, or lower its lr"
            raise WrongInput("retrieval scores are no numbers", "retriever", mend)
        rows = self._texts(found)
        try:
            labels = self._labels(rows, count)
            drawn = draw_templates(found.logps, labels, count, generator)
        except ValueError as error:
            told = f"the clustering fails: {error}"
            raise WrongInput(told, "cluster", "give at most K labels, one a template") from error
        templates = [[row[i] for i in chosen] for row, chosen in zip(rows, drawn.positions.tolist(), strict=True)]
        logps = found.logps.detach()
        return Styles(
            templates,
            found.positions.gather(1, drawn.positions),
            found.scores.detach().gather(1, drawn.positions),
            drawn,
            -(logps.exp() * logps).sum(-1),
        )

    def best(self, queries: Sequence[str], own: Tensor, count: int) -> list[list[Style]]:
        """The best template of each cluster, for generation: nothing is drawn.

        Where there are fewer clusters than ``count`` (candidates may be alike), the best of what is left fill up; a
        bank of fewer templates gives fewer.

        Args:
            queries: B templates z0.
            own: (B,) int64, see ``retrieve``.
            count: How many, at most.

        Raises:
            WrongInput: The bank is empty, or the clustering does not keep to its contract.
        """
        found = self.retrieve(queries, own)
        rows, scores, numbers = self._texts(found), found.scores.detach().tolist(), found.positions.tolist()
        labels = self._labels(rows, count) or [list(range(len(row))) for row in rows]
        try:
            chosen = [best_of_clusters(marks, len(row), count) for row, marks in zip(rows, labels, strict=True)]
        except ValueError as error:
            raise WrongInput(str(error), "cluster", "give at most K labels, one a template") from error
        return [
            [Style(row[place], positions[place], products[place], cluster) for place, cluster in places]
            for row, positions, products, places in zip(rows, numbers, scores, chosen, strict=True)
        ]

    def _texts(self, found: Candidates) -> list[list[str]]:
        texts = self.bank.texts
        return [[texts[int(i)] for i in row] for row in found.positions.tolist()]

    def _labels(self, rows: list[list[str]], count: int) -> list[list[int]] | None:
        return None if self.cluster is None else [list(self.cluster(row, count)) for row in rows]

    def _encode(self, encoder: PreTrainedModel, texts: Sequence[str]) -> Tensor:
        return embedded(encoder, self.tokenizer, texts, self.max_length)
