"""From the times of streamed chunks to the times of tokens, with the checks that all readers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.wrong_input import WrongInput

#: A first token later than this (an hour) means that the numbers are no seconds.
MAX_TTFT_S = 3600.0

_NO_TIMES = np.zeros(0)


def spread_over_chunks(chunk_s: NDArray[np.float64], n_tokens: int) -> NDArray[np.float64]:
    """Gives each token the arrival time of its chunk, tokens spread evenly over the chunks.

    Token k of n (from 0) came in chunk ``floor(k * c / n)`` of c: each chunk holds n/c tokens, rounded up or down. With
    fewer tokens than chunks, in chunk ``floor(k * (c - 1) / (n - 1))``: the first chunk brings the first token and the
    last one the last, so that TTFT and E2E stay what was measured.

    Args:
        chunk_s: (c,) seconds, ascending.
        n_tokens: n.

    Returns:
        (n,) seconds.
    """
    n_chunks = len(chunk_s)
    if n_tokens == n_chunks:
        return chunk_s
    token = np.arange(n_tokens, dtype=np.int64)
    if n_tokens > n_chunks:
        return chunk_s[token * n_chunks // n_tokens] if n_chunks else _NO_TIMES
    return chunk_s[token * (n_chunks - 1) // max(n_tokens - 1, 1)]


def arrival_times(first_s: float, gaps_s: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of c chunks, (c,) seconds since submission, from the first one's and the c - 1 gaps after it."""
    return np.cumsum(np.concatenate(([first_s], gaps_s)), dtype=np.float64)


def check_times(times_s: NDArray[np.float64], where: str) -> None:
    """Refuses times that cannot be seconds since submission.

    Args:
        times_s: (c,) seconds.
        where: File and row, for the message.

    Raises:
        WrongInput: A time is NaN, infinite or negative, times go backwards, or the first comes after `MAX_TTFT_S`.
    """
    if not len(times_s):
        return
    if not np.isfinite(times_s).all():
        what, mend = "a time is NaN or infinite", "drop the request, or write down when its tokens came"
    elif times_s[0] < 0:
        what, mend = f"a time is negative: {times_s[0]:g} s", "times count from the request's submission"
    elif (times_s[1:] < times_s[:-1]).any():
        what, mend = "the times go backwards", "list the tokens in the order of their delivery; no gap is below 0"
    elif times_s[0] > MAX_TTFT_S:
        what = f"a first token after {times_s[0]:g} s cannot be seconds since submission"
        mend = "convert the times to seconds (milliseconds? a wall clock?)"
    else:
        return
    raise WrongInput(what, where, mend)


def as_float(value: Any, name: str, where: str) -> float:
    """A number of a log as float; NaN and infinity pass, `check_times` names them."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongInput(f"`{name}` is {value!r}, not a number", where, "give it as a number")
    return float(value)


def as_count(value: Any, name: str, where: str) -> int:
    """A whole number of a log, at least 0, as int; all of its digits, since nanoseconds have more than a float64."""
    number = as_float(value, name, where)
    if not (math.isfinite(number) and number >= 0 and number == int(number)):
        raise WrongInput(f"`{name}` is {value!r}, not a count", where, "give a whole number, at least 0")
    return int(value)


def as_times(values: Any, name: str, where: str) -> NDArray[np.float64]:
    """A list of numbers of a log as (c,) float64."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise WrongInput(f"`{name}` is {type(values).__name__}, not a list of times", where, "give a list of seconds")
    try:
        times = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.zeros((0, 0))
    if times.ndim != 1:
        raise WrongInput(f"`{name}` holds something that is no number", where, "give a flat list of seconds")
    return times
