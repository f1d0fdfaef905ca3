import json
import random
import subprocess
import sys

import pytest
import sacrebleu
import torch

from callbacks.questions import corpus_bleu, sentence_bleu

WORDS = (
    "who",
    "did",
    "the",
    "mill's",
    "owner",
    "see",
    "in",
    "1,875",
    "?",
    '"Ada"',
    "Where",
    "well-known",
    "e.g.",
    "die?",
)


def sentences(count: int, seed: int, least: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(least, 12))) for _ in range(count)]


def counts(hypotheses, references):
    return torch.tensor([sentence_bleu(h, [r]).counts for h, r in zip(hypotheses, references, strict=True)])


@pytest.mark.parametrize("count", [1, 2, 5, 60])
@pytest.mark.parametrize("seed", range(5))
def test_the_corpus_is_that_of_sacrebleu(count, seed):
    hypotheses, references = sentences(count, seed), sentences(count, seed + 100, least=1)
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert corpus_bleu(counts(hypotheses, references).sum(0)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("hypothesis", "reference"),
    [
        ("", "who ?"),
        ("who", "who"),
        ("who did it", "who did it"),
        ("where", "who ?"),
        ("a b c d e", "a b c d"),
        (" ", "a"),
    ],
)
def test_short_and_empty_sentences(hypothesis, reference):
    expected = sacrebleu.corpus_bleu([hypothesis], [[reference]]).score
    assert corpus_bleu(counts([hypothesis], [reference])[0]).item() == pytest.approx(expected, abs=1e-9)


def test_numbers_are_those_of_the_command_line(tmp_path):
    """``sacrebleu REF -i HYP``: 13a tokens, exponential smoothing, mixed case."""
    hypotheses, references = sentences(30, 1, least=4), sentences(30, 2, least=4)
    for name, lines in (("hyp", hypotheses), ("ref", references)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "ref"), "-i", str(tmp_path / "hyp"), "-w", "8"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert corpus_bleu(counts(hypotheses, references).sum(0)).item() == pytest.approx(said["score"], abs=1e-6)
    for setting in ("tok:13a", "smooth:exp", "case:mixed"):
        assert setting in said["signature"]


def test_a_sentence_is_scored_as_by_sacrebleu():
    for hypothesis, reference in zip(sentences(40, 3), sentences(40, 4, least=1), strict=True):
        expected = sacrebleu.sentence_bleu(hypothesis, [reference]).score
        assert sentence_bleu(hypothesis, [reference]).score == pytest.approx(expected)
    several = sentences(4, 5, least=3)
    assert sentence_bleu("who did see", several).score == pytest.approx(
        sacrebleu.sentence_bleu("who did see", several).score
    )
    with pytest.raises(ValueError, match="needs a reference"):
        sentence_bleu("who", [])


def test_a_question_mark_glued_on_makes_no_difference():
    assert sentence_bleu("Did it ever die?", ["Did it ever die ?"]).score == pytest.approx(100)


def test_many_corpora_at_once():
    many = torch.stack([counts(sentences(9, n), sentences(9, n + 50, least=1)).sum(0) for n in range(6)])
    together = corpus_bleu(many.view(2, 3, -1))
    assert together.shape == (2, 3)
    assert together.flatten().tolist() == [corpus_bleu(one).item() for one in many]
