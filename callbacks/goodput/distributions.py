"""Distributions of latencies that fit in memory however long the log: exact while short, sketched when long."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from callbacks.goodput.functional import Penalty
from callbacks.goodput.metric import SmoothGoodput
from callbacks.goodput.sketch import N_BINS, RELATIVE_ERROR, exact_quantiles, histogram, histogram_quantiles
from callbacks.goodput.timeline import Origin

LATENCY_NAMES = ("ttft", "tbt", "tpot", "e2e", "idle")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class LatencyDistributions(SmoothGoodput):
    """Smooth goodput with distributions of TTFT, TBT, TPOT, E2E and idle latency beside it, to be filled by a child.

    Distributions are exact up to `exact_limit` values (counted over everything that was added, so that the answer does
    not depend on how it was split); above it, quantiles come from a histogram and are within 0.5 % of themselves. Which
    of the two holds is in the output: ``{name}_quantile_error`` is 0 or 0.005. Means and maxima are always exact.

    Args:
        reading_speed: As for `SmoothGoodput`, like `alpha`, `penalty` and `origin`.
        alpha: Weight of the penalty.
        penalty: f of Equation 10.
        origin: What deadlines count from.
        exact_limit: Values of a distribution that are kept before its quantiles become approximate.
        kwargs: Of `SmoothGoodput` and `torchmetrics.Metric`.
    """

    latency_sums: Tensor
    latency_maxima: Tensor
    histograms: Tensor

    def __init__(
        self,
        reading_speed: float = 5.0,
        alpha: float = 2.5,
        penalty: Penalty = "linear_s",
        origin: Origin = "commit",
        *,
        exact_limit: int = 1_000_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(reading_speed, alpha, penalty, origin, **kwargs)
        if exact_limit < 0:
            raise ValueError(f"exact_limit must be 0 or more, not {exact_limit}")
        self.exact_limit = exact_limit
        n = len(LATENCY_NAMES)
        self.add_state("latency_sums", torch.zeros(n, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("latency_maxima", torch.full((n,), -math.inf, dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("histograms", torch.zeros(n, N_BINS, dtype=torch.int64), dist_reduce_fx="sum")
        for name in LATENCY_NAMES:
            self.add_state(f"kept_{name}", [], dist_reduce_fx="cat")

    @property
    def settings(self) -> dict[str, float | str | bool]:
        """All settings that the figures depend on, names with units."""
        return {**super().settings, "exact_limit": self.exact_limit}

    def _distribute(self, row: int, values: Tensor) -> None:
        """Adds (M,) values, but for those that are NaN, to the distribution `LATENCY_NAMES[row]`."""
        missing = values.isnan()
        values = (values[~missing] if bool(missing.any()) else values).to(torch.float64)
        if not values.numel():
            return
        self.latency_sums[row] += values.sum()
        self.latency_maxima[row] = torch.maximum(self.latency_maxima[row], values.amax())
        self.histograms[row] += histogram(values)
        kept = getattr(self, f"kept_{LATENCY_NAMES[row]}")
        kept.append(values.contiguous())  # a column of the token times would keep all of them in memory

    def _drop_what_is_too_much(self) -> None:
        for row, name in enumerate(LATENCY_NAMES):
            if int(self.histograms[row].sum()) > self.exact_limit:
                setattr(self, f"kept_{name}", [])

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        super()._reduce_states(incoming_state)  # `forward` and `merge_state` join two states here
        self._drop_what_is_too_much()

    def _distribution(self, row: int, name: str) -> dict[str, Tensor]:
        """Mean, quantiles and maximum of one latency, and how far its quantiles may be off."""
        count = self.histograms[row].sum()
        quantiles = self.latency_sums.new_tensor(list(QUANTILES.values()))
        exact = int(count) <= self.exact_limit
        kept = getattr(self, f"kept_{name}")
        if exact:
            values = exact_quantiles(dim_zero_cat(kept) if len(kept) else quantiles[:0], quantiles)
        else:
            values = histogram_quantiles(self.histograms[row], quantiles).clamp(max=float(self.latency_maxima[row]))
        nothing = torch.full_like(self.latency_sums[row], math.nan)
        return {
            f"{name}_mean_s": self.latency_sums[row] / count,
            **{f"{name}_{label}_s": value for label, value in zip(QUANTILES, values, strict=True)},
            f"{name}_max_s": self.latency_maxima[row] if count else nothing,
            f"{name}_quantile_error": torch.full_like(nothing, 0.0 if exact else RELATIVE_ERROR),
        }
