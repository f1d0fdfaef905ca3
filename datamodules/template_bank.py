"""The bank of a run: of its training questions, or a user's own."""

from collections.abc import Sequence

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.pairs import RowSource, source_name
from datamodules.question_rows import read_examples
from datamodules.templates import TemplateBank, TemplateExtractor, bank_of_examples, open_bank
from datamodules.templates.bank import LARGEST_SIMILARITY
from datamodules.wrong_input import WrongInput


class TemplateBankDataModule(LightningDataModule):
    """Makes or opens the bank; what is to be tested on it is its number of templates.

    Args:
        data: Training questions.
        read_too: Further rows that will be used; they are read here to be checked, and that is all.
        bank: A user's own: a bank saved before (``.jsonl``), or a text file with a template or a question a line.
            None: made of the data.
        least: Templates that will be wanted for one passage.
        spacy_pipeline: Of the templates; None needs no model.
        largest_similarity: Of two templates of a bank that is made here.

    Raises:
        WrongInput: A row that cannot be used, no bank in the file, or fewer templates than will be wanted.
    """

    def __init__(
        self,
        data: RowSource,
        *,
        read_too: Sequence[RowSource | None] = (),
        bank: str | None = None,
        least: int = 1,
        spacy_pipeline: str | None = None,
        largest_similarity: float = LARGEST_SIMILARITY,
    ):
        super().__init__()
        self.data, self.read_too, self.given, self.least = data, list(read_too), bank, least
        self.largest_similarity = largest_similarity
        self.extractor = TemplateExtractor(spacy_pipeline)
        self.bank: TemplateBank | None = None

    def setup(self, stage: str) -> None:
        """Make or open it."""
        if self.bank is not None:
            return
        examples = read_examples(self.data).examples
        for source in self.read_too:
            if source is not None:
                read_examples(source, questions=False)
        if self.given is None:
            bank = bank_of_examples(examples, self.extractor, self.largest_similarity)
        else:
            bank = open_bank(self.given, self.extractor, self.largest_similarity)
        if len(bank) < self.least:
            raise WrongInput(
                f"{self.least} templates a passage are wanted and the bank has {len(bank)}",
                self.given or source_name(self.data),
                "give more questions or templates, or lower questions= and templates_per_passage=",
            )
        self.bank = bank

    def test_dataloader(self) -> DataLoader:
        """One batch: there is nothing to compute."""
        assert self.bank is not None
        return DataLoader([len(self.bank)])  # type: ignore[arg-type]

    @property
    def final_metrics(self) -> dict[str, float]:
        """How many templates there are."""
        return {"bank_size": len(self.bank or ())}
