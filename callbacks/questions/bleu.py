"""BLEU as sacreBLEU's command line gives it (13a tokens, exponential smoothing), from sufficient statistics.

What a sentence adds to a corpus's BLEU are ten counts: its own and its reference's length, and for n = 1 to 4 the
matched and the possible n-grams. Corpora are sums of them, so the BLEU of a thousand resamples costs a thousand sums.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor

ORDERS = 4
COUNTS = 2 + 2 * ORDERS
"""Sufficient statistics of a sentence: lengths (2), matched n-grams (4), possible n-grams (4)."""
_SCORER = BLEU(tokenize="13a", effective_order=True)


class SentenceBleu(NamedTuple):
    """One sentence against its references."""

    score: float
    """Per cent, of the orders that the sentence is long enough for (``sacrebleu --sentence-level``)."""
    counts: list[int]
    """``COUNTS`` sufficient statistics of the corpus's BLEU."""


def tokens(text: str) -> list[str]:
    """The 13a tokens that all numbers are counted in."""
    return _SCORER.tokenizer(text.rstrip()).split()


def sentence_bleu(hypothesis: str, references: Sequence[str]) -> SentenceBleu:
    """BLEU of a sentence against one or several references.

    Raises:
        ValueError: There is no reference.
    """
    if not references:
        raise ValueError("BLEU needs a reference")
    found = _SCORER.sentence_score(hypothesis, list(references))
    return SentenceBleu(found.score, [found.sys_len, found.ref_len, *found.counts, *found.totals])


def corpus_bleu(counts: Tensor) -> Tensor:
    """BLEU of corpora from the sums of their sentences' statistics.

    Source: Papineni et al. (2002), smoothed as in mteval-v13a: the k-th order without a match counts 2^−k matches.

    Args:
        counts: (…, ``COUNTS``), as in ``SentenceBleu``.

    Returns:
        (…) float64, per cent.
    """
    counts = counts.double()
    lengths, references = counts[..., 0], counts[..., 1]
    matched, possible = counts[..., 2 : 2 + ORDERS], counts[..., 2 + ORDERS : COUNTS]
    smoothed = 0.5 ** (matched == 0).cumsum(-1)
    logs = (torch.where(matched > 0, matched, smoothed) / possible.clamp(min=1)).log().mean(-1)
    brevity = (1 - references / lengths.clamp(min=1)).clamp(max=0)
    nothing = (matched.sum(-1) == 0) | (possible == 0).any(-1)
    return torch.where(nothing, torch.zeros_like(logs), 100 * (logs + brevity).exp())
