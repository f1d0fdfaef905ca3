"""Prompts with the responses to learn: supervised fine-tuning in TRL's formats."""

from collections.abc import Iterator
from functools import partial
from itertools import islice

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batch_settings import check_batches
from datamodules.batches import TokenBatch
from datamodules.collate import collate_responses
from datamodules.encoding import EncodedResponse, Prompt, encode_response, pad_id_of
from datamodules.pairs import RowSource, open_rows, read_prompt, read_response, source_name
from datamodules.resumable import shared_batches, training_sampler
from datamodules.rows import Row, check_messages
from datamodules.wrong_input import WrongInput


class InstructionDataModule(LightningDataModule):
    """Rows of ``prompt`` and a response field, or of ``messages`` (every assistant turn is a response to learn).

    Args:
        data: JSON lines, Parquet, a Hub id, or rows made in process.
        tokenizer: Of the model in training.
        response: The field to learn: ``completion``, or ``chosen`` of preference rows.
        val_data: Held-out rows; None takes a share of the data.
        batch_size: Rows a batch and process.
        max_length: Tokens of prompt and response; longer responses are cut and counted.
        val_fraction: Share of the prompts held out where there is no ``val_data``.
        seed: Of the training order.
        rows: Read only so many of the data, from the start (None: all).
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        response: str = "completion",
        val_data: RowSource | None = None,
        batch_size: int = 8,
        max_length: int = 2048,
        val_fraction: float = 0.05,
        seed: int = 0,
        rows: int | None = None,
    ):
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise WrongInput(f"val_fraction is a share, got {val_fraction}", "val_fraction", "at least 0, below 1")
        check_batches(batch_size=batch_size, max_length=max_length)
        if rows is not None and rows < 1:
            raise WrongInput(f"{rows} rows were asked for", source_name(data), "at least 1, or null for all")
        self.data, self.val_data, self.tokenizer, self.response = data, val_data, tokenizer, response
        self.batch_size, self.max_length, self.val_fraction, self.seed = batch_size, max_length, val_fraction, seed
        self.rows = rows
        self.train_rows: list[EncodedResponse] = []
        self.val_rows: list[EncodedResponse] = []

    def setup(self, stage: str) -> None:
        """Read, encode and split."""
        if self.train_rows:
            return
        if self.val_data is not None:
            self.train_rows, self.val_rows = self._read(self.data, self.rows), self._read(self.val_data)
        else:
            self._split(list(self._conversations(self.data, self.rows)))
        if not self.train_rows:
            raise WrongInput("there are no rows", source_name(self.data), "give rows with a prompt and a response")

    @property
    def final_metrics(self) -> dict[str, float]:
        """Rows read and responses cut."""
        both = [*self.train_rows, *self.val_rows]
        return {"rows": len(both), "truncated": sum(row.truncated for row in both)}

    def train_dataloader(self) -> DataLoader:
        """Shuffled rows; in the middle of an epoch after a resumed checkpoint."""
        sampler = training_sampler(self.trainer, len(self.train_rows), self.batch_size, self.seed)
        return DataLoader(self.train_rows, batch_sampler=sampler, collate_fn=self._collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader | list:
        """Held-out rows, in order."""
        if not self.val_rows:
            return []
        batches = shared_batches(self.trainer, len(self.val_rows), self.batch_size)
        return DataLoader(self.val_rows, batch_sampler=batches, collate_fn=self._collate)  # type: ignore[arg-type]

    @property
    def _collate(self):
        return partial(collate_encoded, pad_id=pad_id_of(self.tokenizer))

    def _split(self, conversations: list[list[EncodedResponse]]) -> None:
        """Hold out whole conversations, by their first prompt."""
        held_out = [examples[0].prompt_share < self.val_fraction for examples in conversations]
        if all(held_out):  # a handful of prompts may all fall on one side
            held_out = [False] * len(conversations)
        for examples, held in zip(conversations, held_out, strict=True):
            (self.val_rows if held else self.train_rows).extend(examples)

    def _read(self, source: RowSource, rows: int | None = None) -> list[EncodedResponse]:
        return [example for examples in self._conversations(source, rows) for example in examples]

    def _conversations(self, source: RowSource, rows: int | None) -> Iterator[list[EncodedResponse]]:
        for row in islice(open_rows(source), rows):
            yield [
                encode_response(self.tokenizer, prompt, response, row.place, self.max_length)
                for prompt, response in self._examples(row)
            ]

    def _examples(self, row: Row) -> Iterator[tuple[Prompt, str]]:
        if row.fields.get("messages") is None:
            prompt = read_prompt(row)
            yield prompt, read_response(row, self.response, prompt)
            return
        turns = check_messages(row.fields["messages"], row.place, "messages", last="assistant")
        for i, turn in enumerate(turns):
            if turn["role"] == "assistant":
                yield turns[:i], turn["content"]


def collate_encoded(rows: list[EncodedResponse], pad_id: int) -> TokenBatch:
    """Right-padded batch of encoded responses, named by their places."""
    return collate_responses([r.ids for r in rows], [r.prompt_length for r in rows], [r.place for r in rows], pad_id)
