"""Quantiles of a stream too long to keep: a histogram of fixed size that adds up.

The bins are as wide as their values are large, so that each quantile is off by at most `RELATIVE_ERROR` of itself,
whatever the distribution (the idea of DDSketch, arXiv 1908.10693). Counts of batches, splits and processes are
simply added: the sketch of the whole is the sum of the sketches of its parts, to the bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELATIVE_ERROR = 0.005  #: of a quantile read from the histogram, for values from `SMALLEST_S` to `LARGEST_S`
SMALLEST_S = 1e-6  #: anything below, 0 above all, counts as 0: no clock of a benchmark resolves less
LARGEST_S = 1e6

_LOG_WIDTH = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
N_BINS = 1 + math.ceil(math.log(LARGEST_S / SMALLEST_S) / _LOG_WIDTH)  #: bin 0 holds the zeros


def histogram(values: Tensor) -> Tensor:
    """Counts values, (M,) seconds of at least 0, by bin.

    Returns:
        (N_BINS,) int64 on the device of `values`.
    """
    bins = 1 + ((values.to(torch.float64) / SMALLEST_S).log() / _LOG_WIDTH).floor()
    bins = torch.where(values < SMALLEST_S, 0, bins).clamp(0, N_BINS - 1)
    return torch.bincount(bins.to(torch.int64), minlength=N_BINS)


def histogram_quantiles(counts: Tensor, quantiles: Tensor) -> Tensor:
    """Quantiles of the values behind a histogram, each within `RELATIVE_ERROR` of itself.

    Args:
        counts: (N_BINS,) int64.
        quantiles: (Q,) from 0 to 1.

    Returns:
        (Q,) float64 seconds, interpolated between order statistics like `exact_quantiles`; NaN of no values.
    """
    total = int(counts.sum())
    if total == 0:
        return torch.full_like(quantiles, math.nan, dtype=torch.float64)
    edges = torch.arange(N_BINS, device=counts.device, dtype=torch.float64) * _LOG_WIDTH
    # the harmonic middle of a bin is equally far, relatively, from both of its edges; edges[k] is bin k's upper one
    middle = SMALLEST_S * edges.exp() * (1 - RELATIVE_ERROR)
    middle[0] = 0.0
    below = counts.cumsum(0)
    rank = quantiles.to(torch.float64) * (total - 1)
    lower = middle[torch.searchsorted(below, rank.floor().to(torch.int64), right=True)]
    upper = middle[torch.searchsorted(below, rank.ceil().to(torch.int64), right=True)]
    return lower + (upper - lower) * (rank - rank.floor())


def exact_quantiles(values: Tensor, quantiles: Tensor) -> Tensor:
    """Quantiles of (M,) values, linear between order statistics (NumPy's default): (Q,) float64, NaN of no values."""
    if values.numel() == 0:
        return torch.full_like(quantiles, math.nan, dtype=torch.float64)
    ordered = values.to(torch.float64).sort().values
    rank = quantiles.to(torch.float64) * (len(ordered) - 1)
    lower, upper = ordered[rank.floor().long()], ordered[rank.ceil().long()]
    return lower + (upper - lower) * (rank - rank.floor())
