"""Passages to ask about in retrieved styles: for reinforcement learning, and for generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example, QuestionBatch
from datamodules.collate import collate_questions
from datamodules.pairs import RowSource
from datamodules.question_data import QuestionData
from datamodules.templates import TemplateBank, TemplateExtractor, open_bank
from datamodules.templates.opening import check_pipeline, own_templates


class EncodedPassage(NamedTuple):
    """A marked passage, and the template that must not be retrieved for it."""

    example: Example
    source: np.ndarray
    """(L,) int32."""
    own_template: int
    """Number in the bank, or −1."""
    cut: bool
    """Tokens of the passage found no room."""


class StyleTransferDataModule(QuestionData):
    """``QuestionBatch``es: to learn from, to select on, and (``predict``) of all rows in order, to ask about.

    A question's own template is found in the bank by what it says, so it is excluded wherever the bank came from; for
    rows without a question nothing is.

    Args:
        data: As in ``QuestionData``.
        tokenizer: Of the style generator.
        bank: Templates, or a file of them; see ``open_bank``.
        predict_data: Rows to generate questions for, which need no question; None: the held-out rows.
        spacy_pipeline: Of the templates; None needs no model. Must be what the bank was made with.
        settings: The other settings of ``QuestionData``.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        bank: TemplateBank | str | Path,
        predict_data: RowSource | None = None,
        spacy_pipeline: str | None = None,
        **settings,
    ):
        super().__init__(data, tokenizer, **settings)
        self.predict_data = predict_data
        self.extractor = TemplateExtractor(spacy_pipeline)
        self.bank = bank if isinstance(bank, TemplateBank) else open_bank(bank, self.extractor)
        check_pipeline(self.bank, self.extractor)
        self.predict_rows: list[EncodedPassage] = []

    def setup(self, stage: str) -> None:
        """Read, split and encode; rows to predict on need not hold questions."""
        if stage != "predict" or self.predict_data is None:
            super().setup(stage)
        if stage == "predict" and not self.predict_rows:
            self.predict_rows = self.val_rows
            if self.predict_data is not None:
                self.predict_rows = self.encode(self._read(self.predict_data, questions=False), training=False)

    @property
    def final_metrics(self) -> dict[str, float]:
        """Rows, passages cut, rows whose own template is in the bank, and rows of the data without an answer."""
        rows = [*self.train_rows, *self.val_rows]
        if self.predict_data is not None:
            rows += self.predict_rows
        return {
            "rows": len(rows),
            "cut_passages": sum(row.cut for row in rows),
            "own_templates": sum(row.own_template >= 0 for row in rows),
            "unanswerable": self.unanswerable,
            "bank_size": len(self.bank),
        }

    @property
    def collate(self) -> Callable[[list[EncodedPassage]], QuestionBatch]:
        """From rows to a ``QuestionBatch``."""
        return partial(_collate, pad_id=self.encoder.pad_id)

    def encode(self, examples: Sequence[Example], *, training: bool) -> list[EncodedPassage]:
        """Marked passages with their own templates' numbers."""
        own = own_templates(self.bank, examples, self.extractor)
        sources = (self.encoder.marked(example) for example in examples)
        return [
            EncodedPassage(example, np.asarray(source.ids, dtype=np.int32), number, source.cut > 0)
            for example, source, number in zip(examples, sources, own, strict=True)
        ]

    def predict_dataloader(self) -> DataLoader | list:
        """Rows to ask about, in order."""
        return self._in_order(self.predict_rows)


def _collate(rows: list[EncodedPassage], pad_id: int) -> QuestionBatch:
    return collate_questions(
        [row.source for row in rows], [row.own_template for row in rows], [row.example for row in rows], pad_id
    )
