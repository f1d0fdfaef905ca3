"""What users want in the same table as smooth goodput: latencies, tokens on time, Andes' QoE, Etalon's fluidity.

``token_times`` is (N, L), seconds since submission, NaN-padded, as `callbacks.goodput.timeline.scan` accepts it; only
its shape is looked at here. What a request without tokens cannot have is NaN.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from callbacks.goodput.slo import due_times, ends
from callbacks.goodput.timeline import Origin, check_positive, check_shape


class Latencies(NamedTuple):
    """The latencies that every benchmark reports, in seconds."""

    ttft_s: Tensor  #: (N,) time to first token, t_1
    tbt_s: Tensor  #: (sum of n_r - 1,) time between tokens: every gap of every request, request after request
    tpot_s: Tensor  #: (N,) time per output token, (t_n - t_1) / (n - 1); NaN below two tokens
    e2e_s: Tensor  #: (N,) end to end, t_n


class Deadlines(NamedTuple):
    """Etalon's deadlines of each request; their ratio is the fluidity index, of one request or of all."""

    met: Tensor  #: (N,) int64
    total: Tensor  #: (N,) int64


def latencies(token_times: Tensor) -> Latencies:
    """TTFT, TBT, TPOT and E2E of (N, L) seconds since submission, in its dtype."""
    check_shape(token_times)
    if token_times.shape[1] == 0:
        nothing = token_times.new_full((len(token_times),), math.nan)
        return Latencies(nothing, token_times.new_zeros(0), nothing, nothing)
    n_tokens, first, last = ends(token_times)
    gaps = token_times.diff(dim=1)
    per_token = (last - first) / torch.where(n_tokens > 1, n_tokens - 1, math.nan).to(first)
    return Latencies(ttft_s=first, tbt_s=gaps[~gaps.isnan()], tpot_s=per_token, e2e_s=last)


def tokens_on_time(token_times: Tensor, *, reading_speed: float = 5.0, origin: Origin = "commit") -> Tensor:
    """How many tokens of each request came by their deadline of Equation 5 (arXiv 2410.14257), (N,) int64.

    Unlike the idle latency, each token is held against its first deadline: after one long stall all that follow are
    late, however steady. Divide the sum by the tokens delivered for the share.
    """
    return (token_times <= due_times(token_times, reading_speed=reading_speed, origin=origin)).sum(1)


def andes_qoe(token_times: Tensor, *, reading_speed: float = 5.0, ttft_s: float = 1.0) -> Tensor:
    """Quality of experience of Andes (arXiv 2404.16283): ``1 - S_delay / S_whole``.

    Token i is ideally read at ``e_i = ttft_s + (i - 1) / speed``; a reader who cannot read faster than `reading_speed`
    reads it at ``a_i = max(t_i, a_{i-1} + 1/speed)``, ``a_1 = max(t_1, e_1)`` (delivery paced to the later of actual
    and ideal). S_delay is the area between the two timelines, ``sum_i (a_i - e_i)``, and S_whole the one up to the
    actual, ``sum_i a_i``.

    Args:
        token_times: (N, L) seconds since submission, NaN-padded.
        reading_speed: Tokens a second that the reader digests.
        ttft_s: When the reader expects the first token, in seconds, above 0.

    Returns:
        (N,) from 0 to 1, in the dtype of `token_times`: 1 for a delivery that is never behind the ideal, towards 0 for
        a first token that never comes, and 0 for a request without tokens.
    """
    check_shape(token_times)
    check_positive("ttft_s", ttft_s)
    check_positive("reading_speed", reading_speed)
    paces = torch.arange(token_times.shape[1], device=token_times.device, dtype=token_times.dtype) / reading_speed
    # unrolled, a_i is the pace of token i after the worst start that any token up to it has forced; NaN stays NaN
    starts = token_times - paces
    actual = (starts.cummax(1).values if starts.shape[1] else starts).clamp_(min=ttft_s).add_(paces)
    n_tokens = (~token_times.isnan()).sum(1).to(token_times)
    ideal = n_tokens * ttft_s + n_tokens * (n_tokens - 1) / (2 * reading_speed)
    return torch.where(n_tokens > 0, ideal / actual.nansum(1), 0)


def fluidity_deadlines(
    token_times: Tensor, *, first_s: float, following_s: float, count: Literal["tokens", "periods"] = "tokens"
) -> Deadlines:
    """The deadlines of Etalon's fluidity index (arXiv 2407.07000), met and in total, for each request.

    The first token is due at `first_s`, each further one `following_s` after the deadline of the one before: earliness
    is carried forward. After a miss the slack is gone, and the next token is due `following_s` after the late one.

    Args:
        token_times: (N, L) seconds since submission, NaN-padded.
        first_s: Deadline of the first token (Etalon's D_p), seconds, above 0.
        following_s: Deadline of each further one (D_d), seconds, above 0.
        count: ``"tokens"``: a token has one deadline, met or missed. ``"periods"``: as Etalon's own code counts, a
            late token misses one deadline for each `following_s` begun since it was due.

    Returns:
        `Deadlines`; ``met.sum() / total.sum()`` is the index of a service, ``met / total`` that of a request.
    """
    check_shape(token_times)
    check_positive("first_s", first_s)
    check_positive("following_s", following_s)
    if count not in ("tokens", "periods"):
        raise ValueError(f"count must be 'tokens' or 'periods', not {count!r}")
    met = torch.zeros(len(token_times), dtype=torch.int64, device=token_times.device)
    total = torch.zeros_like(met)
    deadline = token_times.new_full((len(token_times),), first_s)
    # a miss resets the schedule, so tokens go one after the other; requests go together
    for time in token_times.T.contiguous():
        on_time = time <= deadline
        late = time > deadline  # neither for the NaN of the padding
        met += on_time
        total += on_time
        missed = late.to(time)
        if count == "periods":
            missed = torch.where(late, 1 + ((time - deadline) / following_s).floor(), 0)
        total += missed.to(total)
        deadline = torch.where(late, time, deadline) + following_s
    return Deadlines(met, total)


def fluidity_index(
    token_times: Tensor, *, first_s: float, following_s: float, count: Literal["tokens", "periods"] = "tokens"
) -> Tensor:
    """Share of the deadlines of `fluidity_deadlines` that each request met: (N,), NaN without tokens."""
    met, total = fluidity_deadlines(token_times, first_s=first_s, following_s=following_s, count=count)
    return met.to(token_times) / total.to(token_times)
