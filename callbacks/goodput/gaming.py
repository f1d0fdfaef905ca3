"""Deliveries that flatter a metric without serving anybody better: what the gaming audit compares a log with.

Serving systems can hold tokens back that are there, and can abandon requests whose objective is missed anyway. The
paper shows that tail TBT and classic goodput reward this (arXiv 2410.14257, section 3). Here are the deliveries that
would have come of it, from the ones that were measured. Nothing is delivered earlier than it was.

``token_times`` is (N, L), seconds since submission, NaN-padded, as `callbacks.goodput.timeline.scan` accepts it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from callbacks.goodput.slo import due_times, ends
from callbacks.goodput.timeline import Origin, check_positive, check_shape

#: The objectives of Equations 2 to 5, by the names that their goodput carries in the output.
Objective = Literal["ttft_tbt", "ttft_tpot", "e2e", "reading"]


def steady_pace(token_times: Tensor) -> Tensor:
    """Holds tokens back so that all gaps of a request are equal.

    The gap is the request's own TPOT, ``g = (t_n - t_1) / (n - 1)``, and the first token waits until the stream never
    runs dry: token i goes out at ``max_j (t_j - (j - 1) g) + (i - 1) g``. Every request's largest gap becomes its mean
    gap, at the price of a later first and last token.

    Returns:
        (N, L) seconds, nowhere below `token_times`.
    """
    check_shape(token_times)
    if token_times.shape[1] == 0:
        return token_times
    n_tokens, first, last = ends(token_times)
    gap = (last - first) / (n_tokens - 1).clamp(min=1)
    paces = torch.arange(token_times.shape[1], device=token_times.device, dtype=token_times.dtype) * gap[:, None]
    start = (token_times - paces).nan_to_num(nan=-torch.inf).amax(1, keepdim=True)
    return torch.maximum(start + paces, token_times)  # equal but for the last bit; NaN stays NaN


def held_to_gap(token_times: Tensor, *, gap_s: float) -> Tensor:
    """Holds each token after the first until `gap_s` after the one before: ``t'_i = max(t_i, t'_{i-1} + gap_s)``.

    The TTFT stays what it was. With `gap_s` the TBT of Equation 2, no other way of holding back makes more requests
    meet that objective: tokens that came early are a buffer against the gaps that follow.

    Returns:
        (N, L) seconds, nowhere below `token_times`.
    """
    check_shape(token_times)
    check_positive("gap_s", gap_s)
    if token_times.shape[1] == 0:
        return token_times
    paces = torch.arange(token_times.shape[1], device=token_times.device, dtype=token_times.dtype) * gap_s
    return torch.maximum((token_times - paces).cummax(1).values + paces, token_times)


def cut_at_miss(
    token_times: Tensor,
    objective: Objective,
    *,
    ttft_s: float,
    tbt_s: float,
    tpot_s: float,
    e2e_s: float,
    reading_speed: float,
    origin: Origin = "commit",
) -> Tensor:
    """Abandons each request at its first token that is too late for its objective: that token and all after it go.

    Args:
        token_times: (N, L) seconds since submission, NaN-padded.
        objective: Which of Equations 2 to 5 is missed.
        ttft_s: First-token deadline of Equations 2 and 3, seconds.
        tbt_s: Time between tokens of Equation 2, seconds.
        tpot_s: Time per output token of Equation 3, seconds; a request misses it when it runs past
            ``t_1 + (n - 1) tpot_s``.
        e2e_s: End-to-end deadline of Equation 4, seconds.
        reading_speed: Tokens a second of Equation 5.
        origin: What the deadlines of Equation 5 count from.

    Returns:
        (N, L) seconds, NaN from the miss on.
    """
    check_shape(token_times)
    if token_times.shape[1] == 0:
        return token_times
    if objective == "reading":
        late = token_times > due_times(token_times, reading_speed=reading_speed, origin=origin)
    elif objective == "e2e":
        late = token_times > e2e_s
    else:
        late = torch.zeros_like(token_times, dtype=torch.bool)
        if objective == "ttft_tbt":
            late[:, 1:] = token_times[:, 1:] > token_times[:, :-1] + tbt_s
        elif objective == "ttft_tpot":
            n_tokens, first, _ = ends(token_times)
            late |= token_times > (first + (n_tokens - 1).to(first) * tpot_s)[:, None]
        else:
            raise ValueError(f"objective must be ttft_tbt, ttft_tpot, e2e or reading, not {objective!r}")
        late[:, 0] |= token_times[:, 0] > ttft_s
    return token_times.masked_fill(late.cummax(1).values, torch.nan)
