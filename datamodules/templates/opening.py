"""Where banks come from: training questions, a bank saved before, or a user's own file of templates or questions."""

import logging
from collections.abc import Sequence
from pathlib import Path

from datamodules.batches import Example
from datamodules.pairs import RowSource
from datamodules.question_rows import read_examples
from datamodules.templates.bank import LARGEST_SIMILARITY, BankTemplate, TemplateBank
from datamodules.templates.extraction import Extracted, TemplateExtractor
from datamodules.templates.words import MASK, with_masks
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)


def extract_examples(
    examples: Sequence[Example], extractor: TemplateExtractor, *, passages: bool = True
) -> list[Extracted]:
    """Each example's own template.

    Args:
        examples: Examples.
        extractor: How.
        passages: Whether passage and answer are used, or the question alone, as in a bank of bare questions.
    """
    sources = ((example.context, example.answer) if passages else None for example in examples)
    return list(extractor.extract((example.question for example in examples), sources))


def bank_of_examples(
    examples: Sequence[Example],
    extractor: TemplateExtractor,
    largest_similarity: float = LARGEST_SIMILARITY,
) -> TemplateBank:
    """A bank of the templates of those questions that end in "?".

    Raises:
        WrongInput: There is none.
    """
    asked = [example for example in examples if example.question.rstrip().endswith("?")]
    bank = TemplateBank(largest_similarity, extractor.settings | {"passages": True})
    extracted = extract_examples(asked, extractor)
    bank.add(BankTemplate(one.template, example.id) for one, example in zip(extracted, asked, strict=True))
    return _not_empty(bank, "the training questions")


def build_bank(
    data: RowSource,
    path: str | Path,
    *,
    spacy_pipeline: str | None = None,
    largest_similarity: float = LARGEST_SIMILARITY,
) -> TemplateBank:
    """Make a bank of the questions of a data set and save it.

    Raises:
        WrongInput: A row that cannot be used, or no question that ends in "?".
    """
    bank = bank_of_examples(read_examples(data).examples, TemplateExtractor(spacy_pipeline), largest_similarity)
    bank.save(path)
    return bank


def open_bank(path: str | Path, extractor: TemplateExtractor, largest_similarity: float | None = None) -> TemplateBank:
    """A bank saved before (``.jsonl``), or a text file with a template or a question a line.

    A line with a mask is a template; any other that ends in "?" is a question, whose content is masked. Lines that are
    neither are left out, counted and told.

    Args:
        path: The file.
        extractor: Makes templates of questions; a saved bank must have been made with the same pipeline.
        largest_similarity: Of two templates; a saved bank must have been made with the same. None: the saved bank's
            own, or that of every bank.

    Raises:
        WrongInput: No such file, not UTF-8, no bank, no usable line, or a bank that was made in another way.
    """
    file = Path(path)
    if file.suffix != ".txt":
        return _saved_bank(file, extractor, largest_similarity)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"the file cannot be read: {error}", str(file), "give UTF-8 text, a template a line") from None
    threshold = LARGEST_SIMILARITY if largest_similarity is None else largest_similarity
    bank = TemplateBank(threshold, extractor.settings | {"passages": False})
    templates = _templates(file.name, lines, extractor)
    empty = bank.add(templates).empty
    written = sum(bool(line.strip()) for line in lines)
    bank.dropped_lines = written - len(templates) + empty
    if bank.dropped_lines:
        told = f'neither a template (words and {MASK}) nor a question (with a "?" at its end)'
        log.warning("%s: %d of %d lines dropped: %s", file.name, bank.dropped_lines, written, told)
    return _not_empty(bank, str(file))


def check_pipeline(bank: TemplateBank, extractor: TemplateExtractor) -> None:
    """Pass a bank whose templates were made as the extractor makes them.

    Raises:
        WrongInput: With another spaCy pipeline.
    """
    made_with = bank.settings.get("spacy_pipeline")
    if made_with != extractor.pipeline:
        raise WrongInput(
            f"the bank was made with the spaCy pipeline {made_with} and not {extractor.pipeline}",
            "bank, spacy_pipeline",
            "set the same, or make the bank again: own templates could not be found in it",
        )


def own_templates(bank: TemplateBank, examples: Sequence[Example], extractor: TemplateExtractor) -> list[int]:
    """Of each example the number of its own template in the bank, or −1.

    Looked for as the bank was made: with passages, or (a user's file of questions) without.
    """
    passages = bank.settings.get("passages", True)
    return bank.standing_for([one.template for one in extract_examples(examples, extractor, passages=passages)])


def _saved_bank(file: Path, extractor: TemplateExtractor, largest_similarity: float | None) -> TemplateBank:
    bank = TemplateBank.load(file)
    check_pipeline(bank, extractor)
    made_with = bank.largest_similarity
    if largest_similarity is not None and largest_similarity != made_with:
        what = f"the bank keeps to largest_similarity={made_with:g} and not {largest_similarity:g}"
        mend = f"set largest_similarity={made_with:g}, or make the bank again of its questions"
        raise WrongInput(what, str(file), mend)
    return bank


def _templates(name: str, lines: Sequence[str], extractor: TemplateExtractor) -> list[BankTemplate]:
    usable = [(n, line) for n, line in enumerate(map(with_masks, lines), start=1) if MASK in line or line.endswith("?")]
    made = extractor.extract(line for _, line in usable if MASK not in line)
    return [BankTemplate(line if MASK in line else next(made).template, f"{name}:{number}") for number, line in usable]


def _not_empty(bank: TemplateBank, where: str) -> TemplateBank:
    if not len(bank):
        raise WrongInput("no template can be had", where, f'give questions that end in "?", or templates with {MASK}')
    return bank
