"""Generated questions, to be answered by a QA model or read by a language model, and what of that is done already."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import SourceBatch, TokenBatch
from datamodules.collate import collate_responses, collate_sequences
from datamodules.encoding import pad_id_of
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_texts import question_text_ids
from datamodules.responses import ResponseLog, find_log
from datamodules.resumable import open_batches

REFERENCE = "reference"
"""Beside the methods: the question that the data have for a passage. What is said of theirs is held against it."""


class AskedData(LightningDataModule, ABC):
    """A ``predict`` loader a method, of its questions that are not done yet, and a last one of the true questions.

    A question's id is ``PASSAGE#NUMBER``.

    Args:
        questions: Folder, or folders, with ``NAME.jsonl`` of each method, as generation left them.
        tokenizer: The reading model's.
        methods: Names of the methods, in the order of the loaders.
        folder: Where ``NAME.jsonl`` holds what was found of each method's questions.
        batch_size: Questions a batch.
    """

    def __init__(
        self,
        questions: str | Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        methods: Sequence[str],
        folder: str | Path,
        batch_size: int = 64,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.questions, self.methods, self.folder = questions, [*methods, REFERENCE], Path(folder)
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}

    @abstractmethod
    def encode(self, row: Mapping[str, Any], question: str) -> list[int]:
        """Token ids of a question about a passage."""

    @abstractmethod
    def collate(self, ids: list[list[int]], names: list[str]) -> SourceBatch | TokenBatch:
        """A batch of them."""

    def setup(self, stage: str) -> None:
        """Read the questions: method → passage → its row.

        Raises:
            WrongInput: A method has asked nothing.
        """
        self.rows = asked_rows(self.questions, self.methods[:-1])

    def log_of(self, name: str) -> ResponseLog:
        """What was found of a method's questions."""
        return ResponseLog(self.folder / f"{name}.jsonl")

    def predict_dataloader(self) -> list[DataLoader]:
        """Questions not yet done, a loader a method."""
        return [DataLoader(self._batches(name), batch_size=None) for name in self.methods]  # type: ignore[arg-type]

    def _batches(self, name: str) -> list[Any]:
        ids = {
            question_id(place, number): self.encode(row, question["question"])
            for place, row in self.rows[name].items()
            for number, question in enumerate(row["questions"])
        }
        places = sorted(ids, key=lambda place: len(ids[place]))
        groups = open_batches(self.trainer, places, self.batch_size, self.log_of(name).read().keys())
        return [self.collate([ids[place] for place in group], group) for group in groups]


class AskedQuestionsDataModule(AskedData):
    """Passages and questions for a QA model, as ``SourceBatch``es.

    A passage that is too long is cut around the marked answer, as the QA model was taught.

    Args:
        questions: See ``AskedData``.
        tokenizer: The QA model's.
        max_length: Tokens of passage and question.
        **settings: See ``AskedData``.
    """

    def __init__(
        self,
        questions: str | Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 512,
        **settings: Any,
    ):
        super().__init__(questions, tokenizer, **settings)
        self.encoder = QuestionEncoder(tokenizer, max_length)

    def encode(self, row: Mapping[str, Any], question: str) -> list[int]:
        """Passage and question."""
        span = row["answer_start"], row["answer_start"] + len(row["answer"])
        return self.encoder.qa(row["context"], question, span)

    def collate(self, ids: list[list[int]], names: list[str]) -> SourceBatch:
        """Padded."""
        return SourceBatch(*collate_sequences(ids, self.encoder.pad_id), names)


class AskedTextsDataModule(AskedData):
    """Questions alone for a language model, as ``TokenBatch``es; see ``question_text_ids``. Arguments: see there."""

    def encode(self, row: Mapping[str, Any], question: str) -> list[int]:
        """The question's own text."""
        return question_text_ids(self.tokenizer, question)

    def collate(self, ids: list[list[int]], names: list[str]) -> TokenBatch:
        """Padded; the first token is the prompt."""
        return collate_responses(ids, [1] * len(ids), names, pad_id_of(self.tokenizer))


def asked_rows(questions: str | Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Method → passage → its row, as generation left it; ``REFERENCE`` has one question a passage that has a true one.

    Raises:
        WrongInput: A method has asked nothing.
    """
    rows = {name: find_log(questions, name).read() for name in methods}
    nothing = dict.fromkeys(("template", "template_id", "retrieval_score", "cluster"))
    asked = nothing | {"score": 0.0, "rewards": {}}
    first = next(iter(rows.values()), {})
    true = {p: row | {"questions": [{"question": row["reference"], **asked}]} for p, row in first.items()}
    return rows | {REFERENCE: {place: row for place, row in true.items() if row["reference"]}}


def question_id(place: str, number: int) -> str:
    """Names a question: its passage and its number, from 0."""
    return f"{place}#{number}"
