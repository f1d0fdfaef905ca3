"""Where banks come from: training questions, a bank saved before, or a user's own file of templates or questions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from datamodules.batches import Example
from datamodules.pairs import RowSource
from datamodules.question_rows import read_examples
from datamodules.templates.bank import LARGEST_SIMILARITY, BankTemplate, TemplateBank
from datamodules.templates.extraction import Extracted, TemplateExtractor
from datamodules.templates.words import MASK, with_masks
from datamodules.wrong_input import WrongInput


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


def open_bank(
    path: str | Path, extractor: TemplateExtractor, largest_similarity: float = LARGEST_SIMILARITY
) -> TemplateBank:
    """A bank saved before (``.jsonl``), or a text file with a template or a question a line.

    A line with a mask is a template; any other that ends in "?" is a question, whose content is masked. Lines that are
    neither are passed over.

    Raises:
        WrongInput: No such file, not UTF-8, no bank, or no usable line.
    """
    file = Path(path)
    if file.suffix != ".txt":
        return TemplateBank.load(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"the file cannot be read: {error}", str(file), "give UTF-8 text, a template a line") from None
    bank = TemplateBank(largest_similarity, extractor.settings | {"passages": False})
    bank.add(_templates(file.name, lines, extractor))
    return _not_empty(bank, str(file))


def _templates(name: str, lines: Iterable[str], extractor: TemplateExtractor) -> list[BankTemplate]:
    usable = [(n, line) for n, line in enumerate(map(with_masks, lines), start=1) if MASK in line or line.endswith("?")]
    made = extractor.extract(line for _, line in usable if MASK not in line)
    return [BankTemplate(line if MASK in line else next(made).template, f"{name}:{number}") for number, line in usable]


def _not_empty(bank: TemplateBank, where: str) -> TemplateBank:
    if not len(bank):
        raise WrongInput("no template can be had", where, f'give questions that end in "?", or templates with {MASK}')
    return bank
