"""Delivery timelines: what a matrix of token times says, and whether it can be true.

The one pass over the tokens that every measure here starts from. ``token_times`` is always (N, L), float32 or
float64: row r holds the seconds from the submission of request r to the delivery of its tokens 1, 2, ..., n_r, and
NaN from there on. A request that delivered nothing is a row of NaN.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Origin = Literal["commit", "first_token"]

#: A first token later than this (an hour) means that the numbers are no seconds: milliseconds, or a wall clock.
MAX_TTFT_S = 3600.0

#: A block of rows on a CPU: it stays in the cache, so that the passes over it cost no memory traffic.
_CPU_CELLS = 1 << 18
_DEVICE_CELLS = 1 << 25  #: accelerators want few, large launches


class Timeline(NamedTuple):
    """What one pass over the token times yields, a number a request."""

    n_tokens: Tensor  #: (N,) int64, n_r
    lateness_s: Tensor  #: (N,) seconds: max_i (t_i - i / speed), may be negative, NaN where n_r = 0
    first_s: Tensor  #: (N,) seconds: t_1, NaN where n_r = 0


@torch.no_grad()
def scan(token_times: Tensor, reading_speed: float) -> Timeline:
    """Counts tokens, finds each request's worst lateness and checks the times, in one pass.

    Args:
        token_times: (N, L) float32 or float64, seconds since submission, NaN-padded.
        reading_speed: Tokens a second of the reader, above 0.

    Returns:
        A `Timeline` in the dtype and on the device of `token_times`.

    Raises:
        ValueError: Times go backwards, are negative or infinite, have a NaN inside a request, cannot be seconds
            (`MAX_TTFT_S`), or the tensor has another shape or dtype; or the speed is not above 0.
    """
    check_shape(token_times)
    check_positive("reading_speed", reading_speed)
    n_rows, width = token_times.shape
    n_tokens = torch.zeros(n_rows, dtype=torch.int64, device=token_times.device)
    lateness = token_times.new_full((n_rows,), math.nan)
    first = lateness.clone()
    suspicious = torch.zeros((), dtype=torch.bool, device=token_times.device)
    if n_rows and width:
        first = token_times[:, 0].clone()
        smallest_gaps = _scan_blocks(token_times, reading_speed, n_tokens, lateness)
        lateness[n_tokens == 0] = math.nan
        suspicious = ~(smallest_gaps >= 0).all()  # also where infinity minus infinity made one NaN
        suspicious |= ((first < 0) | (first > MAX_TTFT_S) | lateness.isinf()).any()
    if bool(suspicious):  # the only wait for the device
        _explain(token_times)
    return Timeline(n_tokens, lateness, first)


def _scan_blocks(times: Tensor, reading_speed: float, n_tokens: Tensor, lateness: Tensor) -> Tensor:
    """The pass itself: fills (N,) `n_tokens` and `lateness`, returns the smallest gap of each block of rows.

    NaN becomes the largest number, so that a well-formed row ascends to its end and anything else (a time that goes
    backwards, a NaN between two times, an infinity before the padding) shows as one negative difference. Arithmetic
    instead of masks, because reductions over booleans are several times slower; and the same scratch for each block.
    """
    width, huge = times.shape[1], torch.finfo(times.dtype).max
    step = min(len(times), max(1, (_CPU_CELLS if times.device.type == "cpu" else _DEVICE_CELLS) // width))
    due = torch.arange(1, width + 1, device=times.device, dtype=times.dtype) / reading_speed
    scratch, ends = times.new_empty(step, width), times.new_full((step, 1), huge)
    gaps = times.new_zeros(step, max(1, width - 1))  # of a single token: one gap, of 0
    smallest_gaps = times.new_empty(-(-len(times) // step))
    counts = torch.split(n_tokens[:, None], step)
    blocks = zip(torch.split(times, step), counts, torch.split(lateness, step), smallest_gaps.unbind(), strict=True)
    for block, count, worst, smallest in blocks:
        rows = len(block)
        filled = torch.nan_to_num(block, nan=huge, posinf=math.inf, neginf=-math.inf, out=scratch[:rows])
        torch.searchsorted(filled, ends[:rows], out=count)
        if width > 1:
            torch.sub(filled[:, 1:], filled[:, :-1], out=gaps[:rows])
        torch.amin(gaps[:rows], (0, 1), out=smallest)
        late = torch.sub(block, due, out=filled)
        late.nan_to_num_(nan=-huge, posinf=math.inf, neginf=-math.inf)
        torch.amax(late, 1, out=worst)
    return smallest_gaps


def _explain(token_times: Tensor) -> None:
    """Raises for the first wrong time, named by row and token (both from 0); returns where nothing is wrong."""
    is_nan = token_times.isnan()
    position = torch.arange(token_times.shape[1], device=token_times.device).expand_as(token_times)
    length = (position + 1).masked_fill(is_nan, 0).amax(1, keepdim=True)  # up to the last number
    backwards = torch.zeros_like(is_nan)
    backwards[:, 1:] = token_times[:, 1:] < token_times[:, :-1]
    late_first = torch.zeros_like(is_nan)
    late_first[:, 0] = token_times[:, 0] > MAX_TTFT_S
    faults = (
        (token_times.isinf(), "the time is infinite"),
        (is_nan & (position < length), "the time is NaN inside the request"),
        (token_times < 0, "the time is negative"),
        (backwards, "the times go backwards"),
        (late_first, f"a first token after more than {MAX_TTFT_S:g} s: these cannot be seconds since submission"),
    )
    for wrong, what in faults:
        if bool(wrong.any()):
            row, token = (int(index) for index in wrong.nonzero()[0])
            value = float(token_times[row, token])
            raise ValueError(f"token_times[{row}, {token}] = {value:g}: {what}")


def check_shape(token_times: Tensor) -> None:
    """Raises ValueError unless `token_times` is a (N, L) tensor of float32 or float64."""
    if token_times.ndim != 2:
        raise ValueError(f"token_times must be (N, L): requests by tokens, not {tuple(token_times.shape)}")
    if token_times.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"token_times must be float32 or float64, not {token_times.dtype}: times need the digits")


def check_rows(name: str, values: Tensor, n_rows: int) -> None:
    """Raises ValueError unless `values` has one number a request."""
    if tuple(values.shape) != (n_rows,):
        raise ValueError(f"{name} must be ({n_rows},), one a request like token_times, not {tuple(values.shape)}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0 and finite, not {value:g}")


def check_origin(origin: str) -> None:
    """Raises ValueError unless `origin` is one that deadlines can count from."""
    if origin not in ("commit", "first_token"):
        raise ValueError(f"origin must be 'commit' or 'first_token', not {origin!r}")
