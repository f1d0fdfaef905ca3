"""Passages to be asked about by several methods, and what of that is done already."""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example, QuestionBatch
from datamodules.collate import collate_questions
from datamodules.pairs import RowSource
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_rows import read_examples
from datamodules.responses import ResponseLog
from datamodules.resumable import open_batches


class AskingDataModule(LightningDataModule):
    """One ``predict`` loader a method, of the passages that this method has not asked about yet.

    Rows need no question; where they have one, it is kept for the evaluation and not looked at. No template is left
    out of the search: which one a passage's own question has is not known when questions are to be generated.

    Args:
        data: Rows with context, answer and its offset; see ``question_rows``.
        tokenizer: Of the generators.
        methods: Names of the methods, in the order of the loaders.
        folder: Where ``NAME.jsonl`` holds each method's questions.
        batch_size: Passages a batch.
        max_length: Tokens of an input; longer passages are cut around the answer, and counted.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        methods: Sequence[str],
        folder: str | Path,
        batch_size: int = 16,
        max_length: int = 512,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.data, self.methods, self.folder = data, list(methods), Path(folder)
        self.encoder, self.batch_size = QuestionEncoder(tokenizer, max_length), batch_size
        self.examples: dict[str, Example] = {}
        self.final_metrics: dict[str, float] = {}
        self._ids: dict[str, list[int]] = {}

    def setup(self, stage: str) -> None:
        """Read and encode the passages."""
        if self.examples:
            return
        found = read_examples(self.data, questions=False)
        sources = {example.id: self.encoder.marked(example) for example in found.examples}
        self.examples = {example.id: example for example in found.examples}
        self._ids = {place: source.ids for place, source in sources.items()}
        cut = sum(source.cut > 0 for source in sources.values())
        self.final_metrics = {"rows": len(sources), "cut_passages": cut, "unanswerable": found.unanswerable}

    def log_of(self, name: str) -> ResponseLog:
        """The questions of a method."""
        return ResponseLog(self.folder / f"{name}.jsonl")

    def predict_dataloader(self) -> list[DataLoader]:
        """Batches not yet asked about, a loader a method."""
        return [DataLoader(self._batches(name), batch_size=None) for name in self.methods]  # type: ignore[arg-type]

    def _batches(self, name: str) -> list[QuestionBatch]:
        places = sorted(self.examples, key=lambda place: len(self._ids[place]))  # stable: equal ones keep their order
        groups = open_batches(self.trainer, places, self.batch_size, self.log_of(name).read().keys())
        return [
            collate_questions(
                [self._ids[place] for place in group],
                [-1] * len(group),
                [self.examples[place] for place in group],
                self.encoder.pad_id,
            )
            for group in groups
        ]
