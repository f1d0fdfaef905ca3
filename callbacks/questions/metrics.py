"""All numbers of a set of generated questions, each with a bootstrap interval over inputs.

========================= =============================================================================
top1_bleu                 corpus BLEU of the questions with the best score
oracle_bleu               corpus BLEU of the best question of each input, by sentence BLEU
pairwise_bleu             mean sentence BLEU of ordered pairs of an input's questions: less is more varied
self_bleu                 mean sentence BLEU of each question against all others of its input together
overall                   top1 · oracle / pairwise
qa_em, qa_f1              of the answers that a model gave to the questions, against the marked answers
distinct_1, distinct_2    different n-grams among all n-grams of an input's questions
question_word_entropy     of ``QUESTION_WORDS`` over all questions, in bits
template_adherence        mean r_div of the questions that were given a template; 0 if none was
copy_rate                 words of the questions that stand in the passage
nll                       nats a token of the questions under a language model that had no part in training them
========================= =============================================================================

All are per cent but the entropy and the likelihood. Source: RAST (arXiv 2310.14503), Section 4.2; its released code
prints ``self_bleu`` as pairwise. Every number is a function of sums over inputs, so resampling inputs resamples rows of
sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.questions.answers import exact_match, word_f1
from callbacks.questions.bleu import COUNTS, corpus_bleu, sentence_bleu
from callbacks.questions.wording import QUESTION_WORDS, copied_words, distinct, question_word, template_adherence
from callbacks.statistics import Interval, bootstrap_interval

METRICS = (
    "top1_bleu",
    "oracle_bleu",
    "pairwise_bleu",
    "self_bleu",
    "overall",
    "qa_em",
    "qa_f1",
    "distinct_1",
    "distinct_2",
    "question_word_entropy",
    "template_adherence",
    "copy_rate",
    "nll",
)
OF_ONE_QUESTION = ("qa_em", "qa_f1", "question_word_entropy", "copy_rate", "nll")
"""Of these, what says something where an input has one question, and that is the true one."""


class Asked(NamedTuple):
    """The questions asked about one input; any number from 1 on."""

    reference: str
    """The true question."""
    context: str
    questions: Sequence[str]
    """N of them."""
    scores: Sequence[float]
    """N: length-normalised log-probability plus retrieval score; the first of the greatest is Top-1."""
    templates: Sequence[str] = ()
    """N, ``""`` where none was given; left out, none was."""
    answer: str = ""
    """The marked answer."""
    answered: Sequence[str] = ()
    """N answers of a model that is not the reward's; left out, there are no ``qa_`` numbers."""
    likelihoods: Sequence[tuple[float, int]] = ()
    """N: log-likelihood (nats) and tokens; left out, there is no ``nll``."""


def question_metrics(
    inputs: Sequence[Asked], *, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Every number of ``METRICS`` with ``_ci_low`` and ``_ci_high``.

    Args:
        inputs: What was asked about each input.
        level: The intervals' nominal coverage.
        samples: Resamples of the inputs.
        seed: Of the resampling.

    Returns:
        Name → number; NaN where it is not defined: without pairs (one question an input), answers or likelihoods.

    Raises:
        ValueError: No inputs, an input without questions, or lists of unequal lengths.
    """
    interval = bootstrap_interval(_rows(inputs), _metrics, level=level, samples=samples, seed=seed)
    return _named(interval)


def question_differences(
    a: Sequence[Asked], b: Sequence[Asked], *, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Every number of ``a`` minus that of ``b``, with intervals from resampling both alike.

    Args:
        a: What one system asked.
        b: What the other asked about the same inputs, in the same order.
        level: The intervals' nominal coverage.
        samples: Resamples of the inputs.
        seed: Of the resampling.

    Raises:
        ValueError: As ``question_metrics``; or the inputs are not the same.
    """
    if [(one.context, one.reference) for one in a] != [(one.context, one.reference) for one in b]:
        raise ValueError("a difference needs the same inputs in the same order")
    both = torch.cat([_rows(a), _rows(b)], dim=1)

    def difference(values: Tensor) -> Tensor:
        one, other = values.chunk(2, dim=-1)
        return _metrics(one) - _metrics(other)

    return _named(bootstrap_interval(both, difference, level=level, samples=samples, seed=seed))


def _named(interval: Interval) -> dict[str, float]:
    ends = zip(("", "_ci_low", "_ci_high"), interval, strict=True)
    columns = [(end, bound.tolist()) for end, bound in ends]
    return {f"{name}{end}": bound[place] for place, name in enumerate(METRICS) for end, bound in columns}


def _rows(inputs: Sequence[Asked]) -> Tensor:
    """(N, K) float64: what each input adds to the sums that ``_metrics`` takes."""
    if not inputs:
        raise ValueError("there are no inputs")
    return torch.tensor([_sums(asked) for asked in inputs], dtype=torch.float64)


def _sums(asked: Asked) -> list[float]:
    questions, count = asked.questions, len(asked.questions)
    templates, answered = asked.templates or [""] * count, asked.answered
    needed = {"questions": questions, "scores": asked.scores, "templates": templates}
    optional = {"answers": answered, "likelihoods": asked.likelihoods}
    lengths = {name: len(part) for name, part in {**needed, **optional}.items()}
    if not count or any(length not in ((count,) if name in needed else (0, count)) for name, length in lengths.items()):
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"an input needs questions and as many of the rest, got {told}")
    against = [sentence_bleu(question, [asked.reference]) for question in questions]
    top = max(range(count), key=lambda place: asked.scores[place])
    oracle = max(range(count), key=lambda place: against[place].score)
    pairs = [sentence_bleu(one, [other]).score for one, other in permutations(questions, 2)]
    others = [
        sentence_bleu(one, [*questions[:n], *questions[n + 1 :]]).score for n, one in enumerate(questions) if pairs
    ]
    words = [question_word(question) for question in questions]
    copied = [copied_words(question, asked.context) for question in questions]
    adherence = [template_adherence(*both) for both in zip(questions, templates, strict=True)]
    return [
        *against[top].counts,
        *against[oracle].counts,
        *(_mean(pairs), _mean(others), float(bool(pairs))),
        *(sum(exact_match(one, asked.answer) for one in answered), sum(word_f1(one, asked.answer) for one in answered)),
        len(answered),
        *(_share(distinct(questions, order)) for order in (1, 2)),
        1.0,
        *(words.count(word) for word in QUESTION_WORDS),
        *(sum(adherence), sum(map(bool, templates))),
        *(sum(share.part for share in copied), sum(share.whole for share in copied)),
        *(-sum(logp for logp, _ in asked.likelihoods), sum(tokens for _, tokens in asked.likelihoods)),
    ]


def _metrics(values: Tensor) -> Tensor:
    """(R, N, K) → (R, M) in the order of ``METRICS``."""
    sums = values.sum(dim=1)
    sizes = [COUNTS, COUNTS, 3, 3, 3, len(QUESTION_WORDS), 2, 2, 2]
    top, oracle, pairs, answers, varied, words, adherence, copied, unlikely = sums.split(sizes, dim=-1)
    top1, best = corpus_bleu(top), corpus_bleu(oracle)
    pairwise, others = pairs[..., 0] / pairs[..., 2], pairs[..., 1] / pairs[..., 2]
    overall = torch.where(pairwise > 0, top1 * best / pairwise, torch.nan)
    shares = words / words.sum(-1, keepdim=True)
    numbers = [
        *(top1, best, pairwise, others, overall),
        *(100 * answers[..., place] / answers[..., 2] for place in (0, 1)),
        *(100 * varied[..., place] / varied[..., 2] for place in (0, 1)),
        torch.special.entr(shares).sum(-1) / torch.log(torch.tensor(2.0, dtype=torch.float64)),
        100 * adherence[..., 0] / adherence[..., 1].clamp(min=1),
        100 * copied[..., 0] / copied[..., 1].clamp(min=1),
        unlikely[..., 0] / unlikely[..., 1],
    ]
    return torch.stack(numbers, dim=-1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _share(share: tuple[int, int]) -> float:
    return share[0] / share[1] if share[1] else 0.0
