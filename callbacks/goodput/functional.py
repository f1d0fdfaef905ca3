"""Smooth goodput: what a stream of tokens is worth to its reader (Equations 9 to 11 of arXiv 2410.14257).

A reader takes 1/speed seconds a token. Token i (counted from 1) is due d_i = i / speed seconds after the origin, which
is the submission (``"commit"``) or the delivery of the first token (``"first_token"``: d_i = t_1 + i / speed).

Equation 9, user idle latency, in seconds: ``l_r = max(0, max_i (t_i - d_i))``.
Equation 10, benefit, in tokens: ``benefit(r) = n_r - alpha * f(l_r)``.
Equation 11, smooth goodput, in tokens per second: ``sum_r benefit(r) / T``.

Index convention, and why Equation 9 is what the reader waits: a player that needs 1/speed before each token, the first
included, reaches token i at ``p_i = max(t_i, p_{i-1} + 1/speed)`` with ``p_0 = 0``. Unrolled,
``p_n = max(n/speed, max_j (t_j + (n - j)/speed))``, hence ``p_n - n/speed = max(0, max_j (t_j - j/speed)) = l_r``:
all of its time that was not reading. With ``d_i = (i - 1)/speed`` the equality would not hold.

Here ``token_times`` is (N, L), seconds since submission, NaN-padded (see `callbacks.goodput.timeline`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.goodput.timeline import Origin, check_origin, check_positive, check_rows, scan

#: f of Equation 10: one of `PENALTIES`, or a function of (idle seconds (N,), tokens delivered (N,)) to a penalty (N,).
Penalty = str | Callable[[Tensor, Tensor], Tensor]

PENALTIES = ("linear_s", "linear_tok", "fraction")


class Scores(NamedTuple):
    """The terms of smooth goodput, a number a request."""

    n_tokens: Tensor  #: (N,) int64: tokens delivered, n_r
    idle_s: Tensor  #: (N,) seconds: Equation 9; NaN where no token came and none is charged
    benefit: Tensor  #: (N,) tokens: Equation 10, may be negative


def user_idle_latency(
    token_times: Tensor,
    *,
    reading_speed: float = 5.0,
    origin: Origin = "commit",
    expected_tokens: Tensor | None = None,
) -> Tensor:
    """Equation 9 of arXiv 2410.14257: how long the reader of each request waited in total.

    Args:
        token_times: (N, L) float32 or float64, seconds since submission, NaN-padded.
        reading_speed: Tokens a second.
        origin: What deadlines count from: ``"commit"`` (submission) or ``"first_token"``.
        expected_tokens: (N,) tokens that each request should have delivered, NaN or below 0 where unknown. Given, the
            stricter variant: each token that never came adds the 1/speed seconds its reading would have taken.

    Returns:
        (N,) seconds in the dtype of `token_times`, never below 0; NaN for a request without tokens, unless
        `expected_tokens` says how many it owed.

    Raises:
        ValueError: Wrong times, shapes or settings, in one line.

    Example:
        >>> times = torch.tensor([[0.1, 0.2, 1.2], [0.5, float("nan"), float("nan")]], dtype=torch.float64)
        >>> user_idle_latency(times, reading_speed=5.0, origin="commit")
        tensor([0.6000, 0.3000], dtype=torch.float64)
    """
    return _tokens_and_idle(token_times, reading_speed, origin, expected_tokens)[1]


def _tokens_and_idle(
    token_times: Tensor, reading_speed: float, origin: str, expected_tokens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(n_tokens, idle_s) of each request: `user_idle_latency` and the count that the same pass yields."""
    check_origin(origin)
    n_tokens, lateness, first = scan(token_times, reading_speed)
    idle = (lateness - first if origin == "first_token" else lateness).clamp(min=0)
    if expected_tokens is None:
        return n_tokens, idle
    check_rows("expected_tokens", expected_tokens, len(token_times))
    expected = expected_tokens.to(idle)
    missing = (expected - n_tokens).clamp(min=0)  # NaN where unknown
    charged = idle.nan_to_num(nan=0.0) + missing / reading_speed
    return n_tokens, torch.where(expected >= 0, charged, idle)


def benefit(
    n_tokens: Tensor,
    idle_s: Tensor,
    *,
    reading_speed: float = 5.0,
    alpha: float = 2.5,
    penalty: Penalty = "linear_s",
    patience_s: float = 10.0,
) -> Tensor:
    """Equation 10 of arXiv 2410.14257: ``n_r - alpha * f(l_r)``, never clamped.

    The paper leaves f open. ``"linear_s"``: f = l, alpha is tokens lost an idle second. ``"linear_tok"``:
    f = l * speed, alpha is tokens lost an idle token. ``"fraction"``: f = n_r * min(1, l / L) with L = `patience_s`,
    alpha is the share of the answer lost to a reader whose patience has run out.

    Args:
        n_tokens: (N,) tokens delivered.
        idle_s: (N,) seconds of idle latency; NaN (nothing came, nothing charged) counts as no penalty.
        reading_speed: Tokens a second; used by ``"linear_tok"``.
        alpha: Weight of the penalty, above 0.
        penalty: One of `PENALTIES`, or a function of (idle seconds (N,), tokens (N,)) to a penalty (N,).
        patience_s: L of ``"fraction"``, in seconds.

    Returns:
        (N,) tokens in the dtype of `idle_s`.

    Raises:
        ValueError: A setting is not above 0 or unknown, or a penalty function returns another shape.
    """
    for name, value in (("alpha", alpha), ("reading_speed", reading_speed), ("patience_s", patience_s)):
        check_positive(name, value)
    tokens = n_tokens.to(idle_s)
    idle = idle_s.nan_to_num(nan=0.0)
    if callable(penalty):
        lost = penalty(idle, tokens)
        check_rows("the penalty function's result", lost, len(idle_s))
    elif penalty == "linear_s":
        lost = idle
    elif penalty == "linear_tok":
        lost = idle * reading_speed
    elif penalty == "fraction":
        lost = tokens * (idle / patience_s).clamp(max=1)
    else:
        raise ValueError(f"penalty must be one of {', '.join(PENALTIES)} or a function, not {penalty!r}")
    return tokens - alpha * lost


def score_requests(
    token_times: Tensor,
    *,
    reading_speed: float = 5.0,
    alpha: float = 2.5,
    penalty: Penalty = "linear_s",
    origin: Origin = "commit",
    patience_s: float = 10.0,
    expected_tokens: Tensor | None = None,
) -> Scores:
    """Equations 9 and 10 of arXiv 2410.14257 for each request; the arguments are those of `smooth_goodput`."""
    n_tokens, idle = _tokens_and_idle(token_times, reading_speed, origin, expected_tokens)
    worth = benefit(n_tokens, idle, reading_speed=reading_speed, alpha=alpha, penalty=penalty, patience_s=patience_s)
    return Scores(n_tokens, idle, worth)


def smooth_goodput(
    token_times: Tensor,
    *,
    window_s: float,
    reading_speed: float = 5.0,
    alpha: float = 2.5,
    penalty: Penalty = "linear_s",
    origin: Origin = "commit",
    patience_s: float = 10.0,
    expected_tokens: Tensor | None = None,
) -> Tensor:
    """Equation 11 of arXiv 2410.14257: the benefit of all requests, a second of the window.

    Args:
        token_times: (N, L) float32 or float64, seconds since submission, NaN-padded. Requests that failed stay in: a
            row of NaN where nothing came, the tokens that did come otherwise.
        window_s: T, the measured window in seconds.
        reading_speed: Tokens a second.
        alpha: Weight of the penalty.
        penalty: f of Equation 10, see `benefit`.
        origin: What deadlines count from, see `user_idle_latency`.
        patience_s: L of the ``"fraction"`` penalty, in seconds.
        expected_tokens: (N,) for the stricter variant, see `user_idle_latency`.

    Returns:
        A float64 scalar on the device of `token_times`: tokens per second, negative where readers lost more than
        they got.

    Raises:
        ValueError: Wrong times, shapes or settings, in one line.

    Example:
        >>> steady = torch.arange(1, 11, dtype=torch.float64)[None] / 5  # ten tokens at reading speed: nobody waits
        >>> smooth_goodput(steady, window_s=2.0, reading_speed=5.0, alpha=2.5, penalty="linear_s", origin="commit")
        tensor(5., dtype=torch.float64)
        >>> smooth_goodput(steady + 1.0, window_s=2.0)  # a second late: 2.5 tokens less
        tensor(3.7500, dtype=torch.float64)
    """
    check_positive("window_s", window_s)
    scores = score_requests(
        token_times,
        reading_speed=reading_speed,
        alpha=alpha,
        penalty=penalty,
        origin=origin,
        patience_s=patience_s,
        expected_tokens=expected_tokens,
    )
    return scores.benefit.sum(dtype=torch.float64) / window_s
