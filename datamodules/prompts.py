"""Prompts to be answered by one or several models, and what of that is done already."""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import PromptBatch
from datamodules.collate import collate_prompts
from datamodules.digest import text_digest
from datamodules.encoding import Prompt, encode_prompt, pad_id_of
from datamodules.pairs import RowSource, open_rows, read_prompt, read_response, source_name
from datamodules.responses import ResponseLog
from datamodules.resumable import open_batches
from datamodules.rows import Row
from datamodules.wrong_input import WrongInput


class PromptDataModule(LightningDataModule):
    """One ``predict`` loader a model, of the prompts that this model has not answered yet.

    Batches are made of the same prompts with the same seed however often sampling is interrupted, so responses do not
    depend on it.

    Args:
        data: Rows with ``prompt``; other fields are kept.
        tokenizer: The models'.
        answering: Names of the models, in the order of the loaders.
        folder: Where ``NAME.jsonl`` holds each model's responses.
        skip_given: Do not ask model NAME for rows that already have a field NAME (given preference data).
        batch_size: Prompts a batch.
        max_length: Tokens of prompt and response.
        seed: Of the sampling.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        answering: Sequence[str],
        folder: str | Path,
        skip_given: bool = False,
        batch_size: int = 64,
        max_length: int = 2048,
        seed: int = 0,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.data, self.tokenizer, self.answering, self.folder = data, tokenizer, list(answering), Path(folder)
        self.skip_given, self.batch_size, self.max_length, self.seed = skip_given, batch_size, max_length, seed
        self.rows: dict[str, Row] = {}
        self.prompts: dict[str, Prompt] = {}
        self._ids: dict[str, list[int]] = {}

    def setup(self, stage: str) -> None:
        """Read and encode the prompts."""
        if self.rows:
            return
        for row in open_rows(self.data):
            if row.place in self.rows:
                raise WrongInput("two rows have one id", row.place, "make the ids different")
            prompt = read_prompt(row)
            for name in self.answering:
                if self._is_given(row, name):
                    read_response(row, name, prompt)  # refuses what cannot be used later
            self.rows[row.place], self.prompts[row.place] = row, prompt
            self._ids[row.place] = encode_prompt(self.tokenizer, prompt, row.place, self.max_length)
        if not self.rows:
            raise WrongInput("there are no prompts", source_name(self.data), "give rows with a `prompt`")

    def log_of(self, name: str) -> ResponseLog:
        """The responses of a model."""
        return ResponseLog(self.folder / f"{name}.jsonl")

    def predict_dataloader(self) -> list[DataLoader]:
        """Batches not yet answered, a loader a model."""
        return [DataLoader(self._batches(name), batch_size=None) for name in self.answering]  # type: ignore[arg-type]

    def _is_given(self, row: Row, name: str) -> bool:
        return self.skip_given and bool(row.fields.get(name))

    def _batches(self, name: str) -> list[PromptBatch]:
        asked = [place for place, row in self.rows.items() if not self._is_given(row, name)]
        asked.sort(key=lambda place: len(self._ids[place]))  # stable: equal lengths keep the data's order
        batches = []
        for places in open_batches(self.trainer, asked, self.batch_size, self.log_of(name).read().keys()):
            seed = int(text_digest(str(self.seed), name, *places)[:8], 16)
            ids = [self._ids[place] for place in places]
            batches.append(collate_prompts(ids, places, pad_id_of(self.tokenizer), seed))
        return batches
