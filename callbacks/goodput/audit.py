"""The gaming audit of a log: metrics as they are, and as they would be with tokens held back or requests cut off."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.goodput.collection import SLO_NAMES, GoodputReport
from callbacks.goodput.gaming import cut_at_miss, held_to_gap, steady_pace
from callbacks.goodput.metric import SmoothGoodput

#: What may be done to a delivery: see `callbacks.goodput.gaming`; ``cut`` goes by the objective of Equation 2.
TREATMENTS = ("steady", "held", "cut")
#: The figures that are compared: what a benchmark would show.
FIGURES = (
    "ttft_p99_s",
    "tbt_p99_s",
    "tbt_max_s",
    *(f"goodput_{name}_tps" for name in SLO_NAMES),
    "smooth_goodput_tps",
)
_JUST = 1 - 1e-9  # of a threshold: at the threshold itself rounding would decide


class GamingAudit:
    """Scores treated deliveries beside the measured ones, in pieces, over the same window.

    Args:
        settings: Of `GoodputReport`.
    """

    def __init__(self, settings: dict[str, Any]):
        self.reports = {name: GoodputReport(**settings) for name in TREATMENTS}
        self.strict = SmoothGoodput(**_strict(settings))
        self.tokens = 0
        self.kept = dict.fromkeys(SLO_NAMES, 0)

    def update(self, token_times: Tensor, expected_tokens: Tensor, failed: Tensor) -> None:
        """Adds requests.

        Args:
            token_times: (N, L) seconds since submission, NaN-padded.
            expected_tokens: (N,) tokens each should have delivered, NaN where unknown.
            failed: (N,) bool.
        """
        report = self.reports["cut"]
        treated = {"steady": steady_pace(token_times), "held": held_to_gap(token_times, gap_s=report.tbt_s * _JUST)}
        n_tokens = (~token_times.isnan()).sum(1)
        self.tokens += int(n_tokens.sum())
        for name in SLO_NAMES:
            cut = cut_at_miss(
                token_times,
                name,  # type: ignore[arg-type]
                ttft_s=report.ttft_s,
                tbt_s=report.tbt_s,
                tpot_s=report.tpot_s,
                e2e_s=report.e2e_s,
                reading_speed=report.reading_speed,
                origin=report.origin,
            )
            self.kept[name] += int((~cut.isnan()).sum())
            if name == "ttft_tbt":
                treated["cut"] = cut
        for name, times in treated.items():
            missed = (~times.isnan()).sum(1) < n_tokens  # what was cut off meets nothing, however punctual it was
            self.reports[name].update(times, None, 1.0, expected_tokens, failed | missed)
        self.strict.update(treated["cut"], None, 1.0, torch.fmax(expected_tokens, n_tokens.to(expected_tokens)))

    def compute(self, window_s: float) -> dict[str, dict[str, float]]:
        """The figures of each treatment.

        Args:
            window_s: T as it was measured: a treatment does not get another one. NaN where it is not known.

        Returns:
            Treatment → figure → value; for ``cut`` also ``smooth_goodput_strict_tps`` (the cut tokens are charged
            as the reading time that they were owed), and under ``freed`` the share of all tokens that would not have
            been served, by objective.
        """
        found: dict[str, dict[str, float]] = {}
        for name, report in self.reports.items():
            numbers = report.compute()
            found[name] = {
                key: float(numbers[key]) / (window_s if key.endswith("_tps") else 1.0)  # the reports' window was 1 s
                for key in FIGURES
            }
        found["cut"]["smooth_goodput_strict_tps"] = float(self.strict.compute()) / window_s
        found["freed"] = {name: 1 - kept / self.tokens if self.tokens else math.nan for name, kept in self.kept.items()}
        return found


def _strict(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a report's settings, those of the metric that charges what was cut off."""
    names = ("reading_speed", "alpha", "penalty", "origin", "patience_s")
    return {name: settings[name] for name in names if name in settings} | {"charge_missing_tokens": True}
