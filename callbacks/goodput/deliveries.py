"""Which deliveries of a log to show: its worst, its median and its best request, found while the log goes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill the unit interval evenly: a sample without chance
_MOST_POINTS = 240  # of a delivery that is kept: more than a figure has room for


class Delivery(NamedTuple):
    """One request's delivery."""

    idle_s: float  #: Equation 9
    token_s: Tensor  #: (n,) seconds since submission
    request_id: str


class Deliveries:
    """Finds the worst, the median and the best request by idle latency, and keeps no more than a sample of a log.

    Of equals the one with the most tokens counts; as the median, the one with the most tokens within one percent of it.
    The median is that of the sample, and exact while the log has no more requests with tokens than that; worst and
    best are always exact. The sample depends on the requests' order only, not on how they were split into pieces.

    Args:
        reading_speed: Tokens a second, to find the token that a request's reader waits for longest.
        size: Of the sample, in requests.
    """

    def __init__(self, reading_speed: float, size: int = 501):
        self.reading_speed, self.size, self.seen = reading_speed, size, 0
        self.worst: Delivery | None = None
        self.best: Delivery | None = None
        self._sample: list[tuple[float, int, Delivery]] = []

    def update(self, token_times: Tensor, idle_s: Tensor, request_ids: Sequence[str]) -> None:
        """Adds requests.

        Args:
            token_times: (N, L) seconds since submission, NaN-padded.
            idle_s: (N,) seconds; requests without tokens are passed over.
            request_ids: N names.
        """
        n_tokens = (~token_times.isnan()).sum(1)
        rows = n_tokens.nonzero().squeeze(1)
        if not len(rows):
            return

        def delivery(row: int) -> Delivery:
            return Delivery(float(idle_s[row]), token_times[row, : int(n_tokens[row])].clone(), request_ids[row])

        idle, length = idle_s[rows], n_tokens[rows]
        for row in {int(rows[_last(idle, length)]), int(rows[_last(-idle, length)])}:
            found = delivery(row)
            if self.worst is None or _key(found) > _key(self.worst):
                self.worst = found
            if self.best is None or _key(found, -1) > _key(self.best, -1):
                self.best = found
        number = self.seen + torch.arange(1, len(rows) + 1, dtype=torch.float64)
        priority = (number * _GOLDEN).frac()
        limit = self._sample[-1][0] if len(self._sample) == self.size else 1.0
        for index in (priority < limit).nonzero().squeeze(1).tolist():
            self._sample.append((float(priority[index]), self.seen + index, delivery(int(rows[index]))))
        self._sample = sorted(self._sample, key=lambda one: one[:2])[: self.size]
        self.seen += len(rows)

    @property
    def median(self) -> Delivery | None:
        """Of the middle two percent of the sample, the request with the most tokens."""
        ranked = sorted((one for _, _, one in self._sample), key=_key)
        middle, reach = (len(ranked) - 1) // 2, len(ranked) // 100
        return max(ranked[middle - reach : middle + reach + 1], key=lambda one: len(one.token_s), default=None)

    def found(self) -> dict[str, Any]:
        """The three as plain data, long ones thinned, and whether the median is of a sample only."""
        told = {"worst": self.worst, "median": self.median, "best": self.best}
        shown = {name: _plain(one, self.reading_speed) for name, one in told.items() if one is not None}
        return {**shown, "requests": self.seen, "sampled": self.seen > self.size}


def _key(one: Delivery, sign: int = 1) -> tuple[float, int]:
    return sign * one.idle_s, len(one.token_s)


def _last(first: Tensor, then: Tensor) -> int:
    """Index of the largest by `first` and, of equals, by `then`."""
    return int(torch.where(first == first.amax(), then, -1).argmax())


def _plain(one: Delivery, speed: float) -> dict[str, Any]:
    """A delivery as data: the number of tokens that had come at each time, thinned evenly but for both ends."""
    count = len(one.token_s)
    step = max(1.0, (count - 1) / (_MOST_POINTS - 1))
    index = torch.arange(min(count, _MOST_POINTS), dtype=torch.float64).mul(step).round().long().clamp(max=count - 1)
    latest = int((one.token_s - torch.arange(1, count + 1) / speed).argmax())
    return {
        "request_id": one.request_id,
        "tokens": count,
        "idle_s": one.idle_s,
        "first_s": float(one.token_s[0]),
        "latest": [latest + 1, float(one.token_s[latest])],  # the token furthest behind the reader, and when it came
        "token": (index + 1).tolist(),
        "time_s": one.token_s[index].tolist(),
    }
