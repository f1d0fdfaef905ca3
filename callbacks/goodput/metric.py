"""Smooth goodput as a metric that adds up over batches, splits and processes (Equation 11 of arXiv 2410.14257)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.goodput.functional import Penalty, Scores, benefit, score_requests
from callbacks.goodput.timeline import Origin, check_origin, check_positive, check_rows


class SmoothGoodput(Metric):
    """Smooth goodput, ``sum_r (n_r - alpha * f(l_r)) / T``, in tokens per second.

    The window T is the one given to `update`; of several (each batch, each process) the longest counts, because they
    are parts of one measurement and not one after the other. Where none is given, T runs from the first submission to
    the last delivery over all batches and processes, which needs the submission times of every request.

    Args:
        reading_speed: Tokens a second of the reader.
        alpha: Weight of the penalty.
        penalty: ``"linear_s"``, ``"linear_tok"``, ``"fraction"`` or a function, see
            `callbacks.goodput.functional.benefit`. A function must be picklable where the metric is to be.
        origin: What deadlines count from: ``"commit"`` (submission) or ``"first_token"``.
        patience_s: L of the ``"fraction"`` penalty, seconds.
        charge_missing_tokens: The stricter variant: tokens that were expected and never came are charged too; `update`
            then needs `expected_tokens`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: A setting is wrong, in one line.

    Example:
        >>> metric = SmoothGoodput(reading_speed=5.0, alpha=2.5)
        >>> steady = torch.arange(1, 11, dtype=torch.float64)[None] / 5  # ten tokens at reading speed
        >>> metric.update(steady, submit_times=torch.tensor([0.0]))
        >>> metric.update(steady + 1.0, submit_times=torch.tensor([1.0]))  # a second late
        >>> metric.compute()  # (10 + 10 - 2.5) tokens from 0 s to 4 s
        tensor(4.3750, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    origin: Origin
    benefit_sum: Tensor
    n_requests: Tensor
    n_untimed: Tensor
    given_window_s: Tensor
    first_submit_s: Tensor
    last_delivery_s: Tensor

    def __init__(
        self,
        reading_speed: float = 5.0,
        alpha: float = 2.5,
        penalty: Penalty = "linear_s",
        origin: Origin = "commit",
        *,
        patience_s: float = 10.0,
        charge_missing_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)  # sums over millions of requests, clocks that count from 1970
        self.reading_speed, self.alpha, self.penalty = float(reading_speed), float(alpha), penalty
        self.origin, self.patience_s, self.charge_missing_tokens = origin, float(patience_s), charge_missing_tokens
        check_origin(origin)
        no_requests = torch.zeros(0)
        benefit(no_requests, no_requests, **self._benefit_settings)  # raises now what would be wrong at each update
        for name, start, reduce in (
            ("benefit_sum", 0.0, "sum"),
            ("n_requests", 0.0, "sum"),
            ("n_untimed", 0.0, "sum"),
            ("given_window_s", 0.0, "max"),
            ("first_submit_s", math.inf, "min"),
            ("last_delivery_s", -math.inf, "max"),
        ):
            self.add_state(name, torch.tensor(start, dtype=torch.float64), dist_reduce_fx=reduce)

    @property
    def settings(self) -> dict[str, float | str | bool]:
        """What the figure depends on, to be shown wherever it is: names with units, a function by its name."""
        penalty = getattr(self.penalty, "__name__", repr(self.penalty)) if callable(self.penalty) else self.penalty
        return {
            "reading_speed_tps": self.reading_speed,
            "alpha": self.alpha,
            "penalty": penalty,
            "origin": self.origin,
            "patience_s": self.patience_s,
            "charge_missing_tokens": self.charge_missing_tokens,
        }

    @property
    def _benefit_settings(self) -> dict[str, Any]:
        return {
            "reading_speed": self.reading_speed,
            "alpha": self.alpha,
            "penalty": self.penalty,
            "patience_s": self.patience_s,
        }

    def update(
        self,
        token_times: Tensor,
        submit_times: Tensor | None = None,
        window_s: float | None = None,
        expected_tokens: Tensor | None = None,
    ) -> None:
        """Adds requests.

        Args:
            token_times: (N, L) float32 or float64, seconds since each request's submission, NaN-padded; a row of NaN
                for a request that delivered nothing.
            submit_times: (N,) seconds, when each was submitted, on one clock for all batches and processes.
            window_s: T in seconds, where it is known.
            expected_tokens: (N,) tokens each should have delivered; used with `charge_missing_tokens` only.

        Raises:
            ValueError: Wrong times or shapes, in one line; nothing is added then.
        """
        self._add(self._score(token_times, expected_tokens), token_times, submit_times, window_s)

    def compute(self) -> Tensor:
        """Smooth goodput in tokens per second, a float64 scalar.

        Raises:
            ValueError: No requests, or no window: neither given nor known from submission times, or of 0 seconds.
        """
        if self.n_requests == 0:
            raise ValueError("smooth goodput of no requests: the log is empty")
        return self.benefit_sum / self._window()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds another metric's requests, also after `compute`, whose remembered result torchmetrics would repeat."""
        super().merge_state(incoming_state)
        self._computed = None

    def _score(self, token_times: Tensor, expected_tokens: Tensor | None) -> Scores:
        if not self.charge_missing_tokens:
            expected_tokens = None
        elif expected_tokens is None:
            raise ValueError(
                "charge_missing_tokens needs expected_tokens: how many tokens each request should have got"
            )
        return score_requests(
            token_times, origin=self.origin, expected_tokens=expected_tokens, **self._benefit_settings
        )

    def _add(self, scores: Scores, token_times: Tensor, submit_times: Tensor | None, window_s: float | None) -> None:
        """Checks the clock's side of a batch, then changes the states, all or none."""
        n_rows = len(token_times)
        if window_s is not None:
            check_positive("window_s", float(window_s))
        if submit_times is not None:
            check_rows("submit_times", submit_times, n_rows)
            if not bool(submit_times.isfinite().all()):
                raise ValueError("submit_times must be finite; leave them out where they are not known")
        if window_s is not None:
            self.given_window_s = self.given_window_s.clamp(min=float(window_s))
        if submit_times is None:
            self.n_untimed = self.n_untimed + n_rows
        elif n_rows:
            submitted = submit_times.to(self.first_submit_s)
            self.first_submit_s = torch.minimum(self.first_submit_s, submitted.amin())
            if token_times.shape[1]:
                last = token_times.gather(1, (scores.n_tokens - 1).clamp(min=0)[:, None]).squeeze(1)
                delivered = (submitted + last).nan_to_num(nan=-math.inf)
                self.last_delivery_s = torch.maximum(self.last_delivery_s, delivered.amax())
        self.benefit_sum = self.benefit_sum + scores.benefit.sum(dtype=torch.float64)
        self.n_requests = self.n_requests + n_rows

    def _window(self) -> Tensor:
        """T in seconds; see the class."""
        if self.given_window_s > 0:
            return self.given_window_s
        if self.n_untimed > 0:
            raise ValueError("the window T is not known: give window_s, or submit_times for every request")
        window = self.last_delivery_s - self.first_submit_s
        if not (bool(window.isfinite()) and bool(window > 0)):
            raise ValueError("the window T is 0: nothing was delivered after the first submission; give window_s")
        return window
