"""All the numbers of a serving run beside smooth goodput, as one metric that adds up (arXiv 2410.14257 and its kin)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from callbacks.goodput import companions, slo
from callbacks.goodput.distributions import LATENCY_NAMES, LatencyDistributions
from callbacks.goodput.functional import Penalty, Scores
from callbacks.goodput.timeline import Origin, check_positive, check_rows

#: Equations 2 to 5, by the names that their goodput and attainment carry in the output.
SLO_NAMES = ("ttft_tbt", "ttft_tpot", "e2e", "reading")

_COUNTS = ("failed", "without_tokens", "negative_benefit", "spread_over_chunks")
_SUMS = ("tokens", "on_time", "qoe", "deadlines_met", "deadlines", *_COUNTS)
_CELLS = 1 << 20  # tokens looked at together: bounds the memory of an update to a few copies of this many numbers


class GoodputReport(LatencyDistributions):
    """Smooth goodput and the table around it; every figure adds up over batches, splits and processes.

    Args:
        reading_speed: As for `SmoothGoodput`, like `alpha`, `penalty`, `origin`, `patience_s` and
            `charge_missing_tokens`.
        alpha: Weight of the penalty.
        penalty: f of Equation 10.
        origin: What deadlines count from.
        ttft_s: First-token deadline of Equations 2 and 3, of the fluidity index and of Andes' QoE, seconds.
        tbt_s: Time between tokens of Equation 2 and of the fluidity index, seconds.
        tpot_s: Time per output token of Equation 3, seconds.
        e2e_s: End-to-end deadline of Equation 4, seconds.
        kwargs: Of `LatencyDistributions`, `SmoothGoodput` and `torchmetrics.Metric`.

    Example:
        >>> report = GoodputReport(reading_speed=4.0)
        >>> report.update(torch.tensor([[0.1, 0.2, 1.2]], dtype=torch.float64), window_s=2.0)
        >>> result = report.compute()
        >>> round(float(result["idle_max_s"]), 3), round(float(result["smooth_goodput_tps"]), 4)
        (0.45, 0.9375)
    """

    sums: Tensor
    slo_sums: Tensor

    def __init__(
        self,
        reading_speed: float = 5.0,
        alpha: float = 2.5,
        penalty: Penalty = "linear_s",
        origin: Origin = "commit",
        *,
        ttft_s: float = 1.0,
        tbt_s: float = 0.2,
        tpot_s: float = 0.2,
        e2e_s: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(reading_speed, alpha, penalty, origin, **kwargs)
        self.ttft_s, self.tbt_s, self.tpot_s, self.e2e_s = float(ttft_s), float(tbt_s), float(tpot_s), float(e2e_s)
        for name in ("ttft_s", "tbt_s", "tpot_s", "e2e_s"):
            check_positive(name, getattr(self, name))
        self.add_state("sums", torch.zeros(len(_SUMS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("slo_sums", torch.zeros(len(SLO_NAMES), 2, dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def settings(self) -> dict[str, float | str | bool]:
        """All settings that the figures depend on, names with units."""
        own = {name: getattr(self, name) for name in ("ttft_s", "tbt_s", "tpot_s", "e2e_s")}
        return {**super().settings, **own}

    def update(
        self,
        token_times: Tensor,
        submit_times: Tensor | None = None,
        window_s: float | None = None,
        expected_tokens: Tensor | None = None,
        failed: Tensor | None = None,
        spread: Tensor | None = None,
    ) -> None:
        """Adds requests.

        Args:
            token_times: As for `SmoothGoodput.update`, like `submit_times`, `window_s` and `expected_tokens`.
            submit_times: (N,) seconds.
            window_s: Seconds.
            expected_tokens: (N,) tokens.
            failed: (N,) bool, requests that failed or were cancelled: they meet no objective, whatever they delivered.
            spread: (N,) bool, requests whose tokens were spread over the chunks that the log has times of.

        Raises:
            ValueError: Wrong times or shapes, in one line; nothing is added then.
        """
        for name, flags in (("failed", failed), ("spread", spread)):
            if flags is not None:
                check_rows(name, flags, len(token_times))
        scores = self._score(token_times, expected_tokens)
        self._add(scores, token_times, submit_times, window_s)
        nobody = torch.zeros(len(token_times), dtype=torch.bool, device=token_times.device)
        failed = nobody if failed is None else failed.bool()
        spread = nobody if spread is None else spread.bool()
        step = max(1, _CELLS // max(1, token_times.shape[1]))
        for start in range(0, len(token_times), step):
            rows = slice(start, start + step)
            part = Scores(*(term[rows] for term in scores))
            self._tabulate(token_times[rows], part, failed[rows], spread[rows])

    def _tabulate(self, times: Tensor, scores: Scores, failed: Tensor, spread: Tensor) -> None:
        """Adds the companions of one block of rows."""
        n_tokens = scores.n_tokens
        deadlines = companions.fluidity_deadlines(times, first_s=self.ttft_s, following_s=self.tbt_s)
        terms = {
            "tokens": n_tokens,
            "on_time": companions.tokens_on_time(times, reading_speed=self.reading_speed, origin=self.origin),
            "qoe": companions.andes_qoe(times, reading_speed=self.reading_speed, ttft_s=self.ttft_s),
            "deadlines_met": deadlines.met,
            "deadlines": deadlines.total,
            "failed": failed,
            "without_tokens": n_tokens == 0,
            "negative_benefit": scores.benefit < 0,
            "spread_over_chunks": spread,
        }
        self.sums = self.sums + torch.stack([terms[name].sum(dtype=torch.float64) for name in _SUMS])
        met = torch.stack(
            [
                slo.meets_ttft_tbt(times, ttft_s=self.ttft_s, tbt_s=self.tbt_s),
                slo.meets_ttft_tpot(times, ttft_s=self.ttft_s, tpot_s=self.tpot_s),
                slo.meets_e2e(times, e2e_s=self.e2e_s),
                slo.meets_reading_speed(times, reading_speed=self.reading_speed, origin=self.origin),
            ]
        )
        met &= ~failed
        self.slo_sums = self.slo_sums + torch.stack([met * n_tokens, met], dim=-1).sum(1, dtype=torch.float64)
        latencies = companions.latencies(times)
        for row, values in enumerate((*latencies, scores.idle_s)):
            self._distribute(row, values)
        self._drop_what_is_too_much()

    def compute(self) -> dict[str, Tensor]:
        """Every figure by name with its unit: float64 scalars, flat.

        Rates are NaN where the window is not known; everything else is there.

        Raises:
            ValueError: No requests, or a window of 0 seconds.
        """
        if self.n_requests == 0:
            raise ValueError("a report of no requests: the log is empty")
        known = bool(self.given_window_s > 0) or bool(self.n_untimed == 0)
        window = self._window() if known else torch.full_like(self.given_window_s, math.nan)
        sums = dict(zip(_SUMS, self.sums, strict=True))
        result = {
            "smooth_goodput_tps": self.benefit_sum / window,
            "token_throughput_tps": sums["tokens"] / window,
            "request_throughput_rps": (self.n_requests - sums["failed"]) / window,
            "tokens_on_time_share": sums["on_time"] / sums["tokens"],
            "andes_qoe": sums["qoe"] / self.n_requests,
            "fluidity_index": sums["deadlines_met"] / sums["deadlines"],
            "window_s": window,
            "tokens": sums["tokens"],
            "requests": self.n_requests,
            **{f"requests_{name}": sums[name] for name in _COUNTS},
        }
        for name, (tokens, requests) in zip(SLO_NAMES, self.slo_sums, strict=True):
            result[f"goodput_{name}_tps"] = tokens / window
            result[f"goodput_{name}_rps"] = requests / window
            result[f"attainment_{name}"] = requests / self.n_requests
        for row, name in enumerate(LATENCY_NAMES):
            result.update(self._distribution(row, name))
        numbers = {name: value for name, value in self.settings.items() if not isinstance(value, str)}
        return result | {name: window.new_tensor(float(value)) for name, value in numbers.items()}
