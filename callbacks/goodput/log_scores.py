"""Everything that is said about one log, gathered piece by piece: no log is kept whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks.goodput.audit import TREATMENTS, GamingAudit
from callbacks.goodput.collection import GoodputReport
from callbacks.goodput.deliveries import Deliveries
from callbacks.goodput.distributions import LATENCY_NAMES
from callbacks.goodput.functional import benefit, score_requests
from callbacks.goodput.sketch import histogram_quantiles

SPEEDS_TPS = (2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)  # slow reading to agents
ALPHAS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_QUANTILES = 201


class LogScores:
    """Scores of one log.

    Args:
        settings: Of `GoodputReport`.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(self, settings: dict[str, Any]):
        self.report = GoodputReport(**settings)
        self.audit = GamingAudit(settings)
        self.deliveries = Deliveries(self.report.reading_speed)
        self.speeds = sorted({*SPEEDS_TPS, self.report.reading_speed})
        self.alphas = sorted({*ALPHAS, self.report.alpha})
        self._tokens = 0
        self._lost = [0.0] * len(self.speeds)

    def update(
        self,
        token_times: Tensor,
        submit_times: Tensor | None,
        window_s: float | None,
        expected_tokens: Tensor,
        failed: Tensor,
        spread: Tensor,
        request_ids: Sequence[str],
    ) -> None:
        """Adds requests; all but `request_ids` (N names) as for `GoodputReport.update`."""
        self.report.update(token_times, submit_times, window_s, expected_tokens, failed, spread)
        self.audit.update(token_times, expected_tokens, failed)
        for index, speed in enumerate(self.speeds):
            scores = score_requests(
                token_times,
                reading_speed=speed,
                origin=self.report.origin,
                expected_tokens=expected_tokens if self.report.charge_missing_tokens else None,
            )
            if speed == self.report.reading_speed:
                self.deliveries.update(token_times, scores.idle_s, request_ids)
            worth = benefit(
                scores.n_tokens,
                scores.idle_s,
                reading_speed=speed,
                alpha=1.0,  # benefit is linear in it: tokens - alpha * lost
                penalty=self.report.penalty,
                patience_s=self.report.patience_s,
            )
            self._lost[index] += float((scores.n_tokens.to(worth) - worth).sum(dtype=torch.float64))
        self._tokens += int((~token_times.isnan()).sum())

    def metrics(self) -> dict[str, float]:
        """Every number of the log by name: those of `GoodputReport`, then the audit's.

        Raises:
            ValueError: There is nothing to measure, or no window.
        """
        numbers = {name: float(value) for name, value in self.report.compute().items()}
        audit = self.audit.compute(numbers["window_s"])
        for treatment in TREATMENTS:
            numbers |= {f"{treatment}_{name}": value for name, value in audit[treatment].items()}
        return numbers | {f"cut_freed_{name}": value for name, value in audit["freed"].items()}

    def figures(self) -> dict[str, Any]:
        """What the report draws, as plain data: deliveries, the distribution of idle latency, speed × alpha."""
        window = float(self.report.compute()["window_s"])
        share = torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)
        row = LATENCY_NAMES.index("idle")
        idle = histogram_quantiles(self.report.histograms[row], share)
        if not math.isinf(most := float(self.report.latency_maxima[row])):
            idle = idle.clamp(max=most)
        worth = [[(self._tokens - alpha * lost) / window for lost in self._lost] for alpha in self.alphas]
        return {
            "deliveries": self.deliveries.found(),
            "idle": {"share": share.tolist(), "seconds": [] if bool(idle.isnan().any()) else idle.tolist()},
            "readers": {"speeds_tps": self.speeds, "alphas": self.alphas, "smooth_goodput_tps": worth},
        }
