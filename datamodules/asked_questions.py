"""Generated questions, to be answered by a QA model, and what of that is done already."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import SourceBatch
from datamodules.collate import collate_sequences
from datamodules.question_encoding import QuestionEncoder
from datamodules.responses import ResponseLog, find_log
from datamodules.resumable import open_batches


class AskedQuestionsDataModule(LightningDataModule):
    """A ``predict`` loader a method, of its questions that have no answer yet. A question's id is ``PASSAGE#NUMBER``.

    A passage that is too long is cut around the marked answer, as the QA model was taught.

    Args:
        questions: Folder, or folders, with ``NAME.jsonl`` of each method, as generation left them.
        tokenizer: The QA model's.
        methods: Names of the methods, in the order of the loaders.
        folder: Where ``NAME.jsonl`` holds the answers to each method's questions.
        batch_size: Questions a batch.
        max_length: Tokens of passage and question.
    """

    def __init__(
        self,
        questions: str | Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        methods: Sequence[str],
        folder: str | Path,
        batch_size: int = 64,
        max_length: int = 512,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.questions, self.methods, self.folder = questions, list(methods), Path(folder)
        self.encoder, self.batch_size = QuestionEncoder(tokenizer, max_length), batch_size
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}

    def setup(self, stage: str) -> None:
        """Read the questions: method → passage → its row.

        Raises:
            WrongInput: A method has asked nothing.
        """
        self.rows = {name: find_log(self.questions, name).read() for name in self.methods}

    def log_of(self, name: str) -> ResponseLog:
        """The answers to a method's questions."""
        return ResponseLog(self.folder / f"{name}.jsonl")

    def predict_dataloader(self) -> list[DataLoader]:
        """Questions not yet answered, a loader a method."""
        return [DataLoader(self._batches(name), batch_size=None) for name in self.methods]  # type: ignore[arg-type]

    def _batches(self, name: str) -> list[SourceBatch]:
        ids: dict[str, list[int]] = {}
        for place, row in self.rows[name].items():
            span = row["answer_start"], row["answer_start"] + len(row["answer"])
            for number, question in enumerate(row["questions"]):
                ids[question_id(place, number)] = self.encoder.qa(row["context"], question["question"], span)
        places = sorted(ids, key=lambda place: len(ids[place]))
        groups = open_batches(self.trainer, places, self.batch_size, self.log_of(name).read().keys())
        pad = self.encoder.pad_id
        return [SourceBatch(*collate_sequences([ids[p] for p in group], pad), group) for group in groups]


def question_id(place: str, number: int) -> str:
    """Names a question: its passage and its number, from 0."""
    return f"{place}#{number}"
