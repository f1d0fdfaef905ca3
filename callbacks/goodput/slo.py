"""Service level objectives, attainment and classic goodput (Equations 1 to 7 of arXiv 2410.14257).

A request meets an objective iff each of its tokens came by its deadline. A request that delivered nothing meets none:
with no token to be late it would otherwise count as a success, and refusing everybody would be the best service.
Whoever knows that a request failed after some tokens takes it out of `met` too (`callbacks.goodput.collection` does).

``token_times`` is (N, L), seconds since submission, NaN-padded, as `callbacks.goodput.timeline.scan` accepts it; only
its shape is looked at here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.goodput.timeline import Origin, check_origin, check_positive, check_rows, check_shape


class Goodput(NamedTuple):
    """Equation 7, both ways that it is counted."""

    tokens_per_s: Tensor  #: float64 scalar: tokens of the requests that met the objective, a second
    requests_per_s: Tensor  #: float64 scalar: requests that met the objective, a second


def due_times(token_times: Tensor, *, reading_speed: float, origin: Origin = "commit") -> Tensor:
    """Deadlines of Equation 5: ``d_i = i / speed`` after the origin.

    Returns:
        (L,) seconds for ``"commit"``, (N, L) for ``"first_token"``, in the dtype of `token_times`.
    """
    check_shape(token_times)
    check_positive("reading_speed", reading_speed)
    check_origin(origin)
    width = token_times.shape[1]
    due = torch.arange(1, width + 1, device=token_times.device, dtype=token_times.dtype) / reading_speed
    return due if origin == "commit" else token_times[:, :1] + due


def meets_deadlines(token_times: Tensor, deadlines: Tensor) -> Tensor:
    """Equation 1: met iff ``t_i <= d_i`` for all i.

    Args:
        token_times: (N, L) seconds since submission, NaN-padded.
        deadlines: (L,) or (N, L) seconds since submission, d_i.

    Returns:
        (N,) bool; False for a request without tokens.
    """
    check_shape(token_times)
    if token_times.shape[1] == 0:
        return _nobody(token_times)
    late = token_times > deadlines  # never so for the NaN of the padding
    return ~late.any(1) & ~token_times[:, 0].isnan()


def meets_ttft_tbt(token_times: Tensor, *, ttft_s: float, tbt_s: float) -> Tensor:
    """Equation 2: ``d_1 = ttft_s``, ``d_i = t_{i-1} + tbt_s``. (N, L) seconds to (N,) bool."""
    check_shape(token_times)
    if token_times.shape[1] == 0:
        return _nobody(token_times)
    late = token_times[:, 1:] > token_times[:, :-1] + tbt_s  # never so for the NaN of the padding
    return (token_times[:, 0] <= ttft_s) & ~late.any(1)


def meets_ttft_tpot(token_times: Tensor, *, ttft_s: float, tpot_s: float) -> Tensor:
    """Equation 3: ``t_1 <= ttft_s`` and ``t_n <= t_1 + (n - 1) * tpot_s``. (N, L) seconds to (N,) bool."""
    check_shape(token_times)
    if token_times.shape[1] == 0:
        return _nobody(token_times)
    n_tokens, first, last = ends(token_times)
    return (first <= ttft_s) & (last <= first + (n_tokens - 1).to(first) * tpot_s)


def meets_e2e(token_times: Tensor, *, e2e_s: float) -> Tensor:
    """Equation 4: ``d_i = e2e_s`` for every token. (N, L) seconds to (N,) bool."""
    return meets_deadlines(token_times, token_times.new_tensor(e2e_s))


def meets_reading_speed(token_times: Tensor, *, reading_speed: float = 5.0, origin: Origin = "commit") -> Tensor:
    """Equation 5, the paper's own: ``d_i = i / speed``; met iff the user idle latency is 0.

    The paper writes V * i and calls V a speed: V is seconds a token, 1 / `reading_speed`. (N, L) seconds to (N,) bool.
    """
    return meets_deadlines(token_times, due_times(token_times, reading_speed=reading_speed, origin=origin))


def slo_attainment(met: Tensor) -> Tensor:
    """Equation 6: the share of requests, (N,) bool, that meet the objective; NaN of no requests. A float64 scalar."""
    return met.to(torch.float64).mean()


def goodput(met: Tensor, n_tokens: Tensor, *, window_s: float) -> Goodput:
    """Equation 7: ``sum_r 1[met] * n_r / T``, and the same with each request counted as one.

    Args:
        met: (N,) bool, which requests meet the objective.
        n_tokens: (N,) tokens delivered, n_r.
        window_s: T, seconds, above 0.

    Returns:
        A `Goodput`: tokens per second, requests per second.
    """
    check_positive("window_s", window_s)
    check_rows("n_tokens", n_tokens, len(met))
    return Goodput(
        tokens_per_s=(met * n_tokens).sum(dtype=torch.float64) / window_s,
        requests_per_s=met.sum(dtype=torch.float64) / window_s,
    )


def ends(token_times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n_r int64, t_1, t_n), each (N,), of a (N, L >= 1) matrix; the times are NaN for a request without tokens."""
    n_tokens = (~token_times.isnan()).sum(1)
    last = token_times.gather(1, (n_tokens - 1).clamp(min=0)[:, None]).squeeze(1)
    return n_tokens, token_times[:, 0], last


def _nobody(token_times: Tensor) -> Tensor:
    """(N,) False: who delivered nothing meets nothing."""
    return torch.zeros(len(token_times), dtype=torch.bool, device=token_times.device)
