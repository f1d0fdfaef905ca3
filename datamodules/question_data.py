"""What every data module of question generation does: read, hold out whole passages, serve batches by rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example
from datamodules.digest import text_share
from datamodules.pairs import RowSource
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_rows import read_examples
from datamodules.resumable import shared_batches, training_sampler
from datamodules.wrong_input import WrongInput


class QuestionData(LightningDataModule, ABC):
    """Passages with answers and questions; a subclass says what is made of them.

    Args:
        data: JSON lines, Parquet, a Hub id (``squad``), or rows made in process; see ``question_rows``.
        tokenizer: Of the model; knows ``QUESTION_TOKENS``.
        val_data: Held-out rows; None takes a share of the data.
        batch_size: Rows a batch and process.
        max_length: Tokens of an input; longer passages are cut around the answer, and counted.
        val_fraction: Share of the passages held out, with all their questions, where there is no ``val_data``.
        seed: Of the training order, and of all other draws.
        sort_window: Steps whose rows are sorted by length among them; see ``ResumableBatchSampler``.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        val_data: RowSource | None = None,
        batch_size: int = 8,
        max_length: int = 512,
        val_fraction: float = 0.05,
        seed: int = 0,
        sort_window: int = 1,
    ):
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise WrongInput(f"val_fraction is a share, got {val_fraction}", "val_fraction", "at least 0, below 1")
        self.data, self.val_data, self.tokenizer = data, val_data, tokenizer
        self.encoder = QuestionEncoder(tokenizer, max_length)
        self.batch_size, self.val_fraction, self.seed = batch_size, val_fraction, seed
        self.sort_window = sort_window
        self.train_examples: list[Example] = []
        self.val_examples: list[Example] = []
        self.train_rows: list[Any] = []
        self.val_rows: list[Any] = []
        self.unanswerable = 0

    @abstractmethod
    def encode(self, examples: Sequence[Example], *, training: bool) -> list[Any]:
        """The rows that ``collate`` makes batches of."""

    @property
    @abstractmethod
    def collate(self) -> Callable[[list[Any]], Any]:
        """From rows to a batch."""

    def length(self, row: Any) -> int:
        """Tokens of a row: what batches are sorted by."""
        return len(row.source)

    def setup(self, stage: str) -> None:
        """Read, split and encode."""
        if self.train_rows:
            return
        self.train_examples = self._read(self.data)
        if self.val_data is not None:
            self.val_examples = self._read(self.val_data)
        else:
            self._split()
        self.train_rows = self.encode(self.train_examples, training=True)
        self.val_rows = self.encode(self.val_examples, training=False)

    def train_dataloader(self) -> DataLoader:
        """Shuffled rows; in the middle of an epoch after a resumed checkpoint."""
        lengths = [self.length(row) for row in self.train_rows]
        order = {"lengths": lengths, "window": self.sort_window}
        sampler = training_sampler(self.trainer, len(self.train_rows), self.batch_size, self.seed, **order)
        return DataLoader(self.train_rows, batch_sampler=sampler, collate_fn=self.collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader | list:
        """Held-out rows, in order."""
        return self._in_order(self.val_rows)

    def _in_order(self, rows: list[Any]) -> DataLoader | list:
        if not rows:
            return []
        batches = shared_batches(self.trainer, len(rows), self.batch_size)
        return DataLoader(rows, batch_sampler=batches, collate_fn=self.collate)  # type: ignore[arg-type]

    def _read(self, source: RowSource, *, questions: bool = True) -> list[Example]:
        examples, unanswerable = read_examples(source, questions=questions)
        self.unanswerable += unanswerable
        return examples

    def _split(self) -> None:
        """Hold out whole passages, by their text alone."""
        held_out = [text_share(example.context) < self.val_fraction for example in self.train_examples]
        if all(held_out):  # a handful of passages may all fall on one side
            return
        both = list(zip(self.train_examples, held_out, strict=True))
        self.train_examples = [example for example, held in both if not held]
        self.val_examples = [example for example, held in both if held]
