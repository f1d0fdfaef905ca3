"""The bank of a run: of its training questions, or a user's own."""

import logging
from collections.abc import Sequence

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batches import Example
from datamodules.pairs import RowSource, source_name
from datamodules.question_rows import read_examples
from datamodules.templates import MASK, TemplateBank, TemplateExtractor, bank_of_examples, open_bank
from datamodules.templates.bank import LARGEST_SIMILARITY
from datamodules.templates.opening import own_templates
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)


class TemplateBankDataModule(LightningDataModule):
    """Makes or opens the bank; what is to be tested on it is its number of templates.

    Args:
        data: Training questions.
        val_data: Held-out questions; None: a share of the data.
        read_too: Further rows that will be used; they are read here to be checked, and that is all. Whether they need
            questions is for the stages to say that come; it is told here if they lack them.
        bank: A user's own: a bank saved before (``.jsonl``), or a text file with a template or a question a line.
            None: made of the data.
        least: Templates that will be wanted for one passage.
        drawn: Templates that will be drawn in training, where a passage's own one is left out.
        spacy_pipeline: Of the templates; None needs no model. A saved bank must have been made with it.
        largest_similarity: Of two templates. A saved bank must have been made with it.

    Raises:
        WrongInput: A row that cannot be used, no bank in the file or one made in another way, or fewer templates than
            will be wanted.
    """

    def __init__(
        self,
        data: RowSource,
        *,
        val_data: RowSource | None = None,
        read_too: Sequence[RowSource | None] = (),
        bank: str | None = None,
        least: int = 1,
        drawn: int = 0,
        spacy_pipeline: str | None = None,
        largest_similarity: float = LARGEST_SIMILARITY,
    ):
        super().__init__()
        self.data, self.val_data, self.read_too = data, val_data, list(read_too)
        self.given, self.least, self.drawn = bank, least, drawn
        self.largest_similarity = largest_similarity
        self.extractor = TemplateExtractor(spacy_pipeline)
        self.bank: TemplateBank | None = None

    def setup(self, stage: str) -> None:
        """Make or open it."""
        if self.bank is not None:
            return
        examples = read_examples(self.data).examples
        held_out = [] if self.val_data is None else read_examples(self.val_data).examples
        for source in self.read_too:
            if source is not None:
                _tell_questionless(read_examples(source, questions=False).examples)
        if self.given is None:
            bank = bank_of_examples(examples, self.extractor, self.largest_similarity)
        else:
            bank = open_bank(self.given, self.extractor, self.largest_similarity)
        self._check_size(bank, [*examples, *held_out])
        self.bank = bank

    def _check_size(self, bank: TemplateBank, examples: Sequence[Example]) -> None:
        where = self.given or source_name(self.data)
        mend = "give more questions or templates, or lower questions= and templates_per_passage="
        if len(bank) < self.least:
            raise WrongInput(f"{self.least} templates a passage are wanted and the bank has {len(bank)}", where, mend)
        if len(bank) <= self.drawn and max(own_templates(bank, examples, self.extractor)) >= 0:
            what = f"{self.drawn} templates are wanted beside a passage's own, and the bank has {len(bank)}"
            raise WrongInput(what, where, mend)

    def test_dataloader(self) -> DataLoader:
        """One batch: there is nothing to compute."""
        assert self.bank is not None
        return DataLoader([len(self.bank)])  # type: ignore[arg-type]

    @property
    def final_metrics(self) -> dict[str, float]:
        """How many templates there are; of a user's own bank also what one should know of it."""
        texts = self.bank.texts if self.bank is not None else ()
        metrics = {"bank_size": float(len(texts))}
        if self.bank is not None and self.given is not None:
            metrics["dropped_lines"] = self.bank.dropped_lines
            metrics["without_mask"] = sum(MASK not in text for text in texts)
        return metrics


def _tell_questionless(examples: Sequence[Example]) -> None:
    without = [example.id for example in examples if not example.question]
    if without:
        told = "%d of %d rows have no question to compare with (the first: %s): stage evaluate will refuse them"
        log.warning(told, len(without), len(examples), without[0])
