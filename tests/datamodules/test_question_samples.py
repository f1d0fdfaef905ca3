"""Real questions, read and made into templates. Skipped where the samples are not at hand."""

from pathlib import Path

import pytest

from datamodules.question_rows import read_examples
from datamodules.templates import MASK, TemplateExtractor, bank_of_examples, open_bank, template_words, word_jaccard

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "question_generation"
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the real samples (../shared/data/question_generation) are not here"
)


@pytest.mark.parametrize(("name", "rows"), [("fairytaleqa_val.jsonl", 430), ("xquad_en.jsonl", 1190)])
def test_every_row_is_read_and_gives_a_template(name, rows):
    examples = read_examples(str(SAMPLES / name)).examples
    assert len(examples) == rows
    assert any(example.answer_start == 0 for example in examples)
    bank = bank_of_examples(examples, TemplateExtractor())
    assert rows / 5 < len(bank) < rows
    assert sum(MASK in text for text in bank.texts) > 0.95 * len(bank)
    asked = [example for example in examples if example.question.rstrip().endswith("?")]
    extractor = TemplateExtractor()
    own = [extractor.of(example.question, example.context, example.answer) for example in asked]
    stood_for = bank.standing_for(own)
    assert all(number >= 0 for number, text in zip(stood_for, own, strict=True) if template_words(text))


def test_own_templates_are_found_in_a_file_that_holds_the_same_questions():
    """It holds every question of XQuAD, lower-cased and split into tokens."""
    extractor = TemplateExtractor()
    bank = open_bank(SAMPLES / "squad_du_dev_questions.txt", extractor)
    examples = read_examples(str(SAMPLES / "xquad_en.jsonl")).examples
    asked = [example.question for example in examples if example.question.rstrip().endswith("?")]
    found = bank.standing_for([one.template for one in extractor.extract(asked)])
    assert sum(number >= 0 for number in found) > 0.99 * len(asked)
    sets = [template_words(text) for text in bank.texts[:300]]
    assert max(word_jaccard(a, b) for n, a in enumerate(sets) for b in sets[:n]) <= 0.6
