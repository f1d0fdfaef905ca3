"""One request of a latency log, and one log: the columns that every reader yields, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.wrong_input import WrongInput

#: ``ok``: finished with tokens; ``empty``: finished without error and without a token; ``failed``: ended in an error;
#: ``cancelled``: stopped by the user. A failed or cancelled request keeps the tokens that came before.
Status = Literal["ok", "empty", "failed", "cancelled"]

_CELLS = 1 << 21  # of a padded piece: 16 MiB of float64
_ROWS = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        request_id: As the tool named it, or its number in the log.
        submit_s: When it was submitted, on a clock that the log's requests share; None where the log does not say.
        token_s: (n,) float64, seconds from submission to the delivery of each token, ascending; n is what came.
        input_tokens: Length of the prompt, None where unknown.
        output_tokens: Length of the answer as the log states it; for a request that failed, often 0 where
            `token_s` shows that more came.
        expected_tokens: How many tokens it should have delivered, None where unknown.
        status: See `Status`.
        error: What went wrong, "" for nothing.
        n_chunks: In how many streamed chunks the tokens came; None where the log has a time for each token.
    """

    request_id: str
    submit_s: float | None
    token_s: NDArray[np.float64]
    input_tokens: int | None
    output_tokens: int
    expected_tokens: int | None = None
    status: Status = "ok"
    error: str = ""
    n_chunks: int | None = None

    @property
    def spread(self) -> bool:
        """Whether the tokens outnumber or undercut the chunks with times, and so were spread over them."""
        return self.n_chunks is not None and self.n_chunks != len(self.token_s)


@dataclass
class Tally:
    """What was met while a log was read, to be said beside its figures."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    empty: int = 0
    spread: int = 0  #: tokens spread over chunks, see `Request.spread`
    counted_by_chunk: int = 0  #: the log states no token, yet chunks came: one token a chunk was counted
    skipped: int = 0  #: warm-up requests, which are no part of the measurement

    def add(self, request: Request) -> None:
        """Counts one request."""
        self.requests += 1
        self.failed += request.status == "failed"
        self.cancelled += request.status == "cancelled"
        self.empty += request.status == "empty"
        self.spread += request.spread
        self.counted_by_chunk += len(request.token_s) > 0 and request.output_tokens == 0


@dataclass
class LatencyLog:
    """One measured run.

    Attributes:
        path: The file.
        name: The file's stem; with ``.1``, ``.2``, ... where a file holds several runs.
        tool: What wrote it.
        window_s: T, where the log states it; otherwise it follows from the submission times, if there are any.
        has_submit_times: Whether requests have them. With neither these nor `window_s` no rate exists.
        rows: Starts reading from the top: the requests one after the other.
        tally: Counts of the latest reading, complete once it has ended.
    """

    path: Path
    name: str
    tool: str
    window_s: float | None
    rows: Callable[[Tally], Iterator[Request]]
    has_submit_times: bool = False
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        first = next(iter(self.rows(Tally())), None)
        if first is None:
            raise WrongInput("the log is empty: no requests", str(self.path), "give a log of a run that served some")
        self.has_submit_times = first.submit_s is not None

    def requests(self) -> Iterator[Request]:
        """Reads the requests one by one, counting them anew.

        Raises:
            WrongInput: A row is wrong, named by file and row.
        """
        self.tally = Tally()
        for request in self.rows(self.tally):
            self.tally.add(request)
            if (request.submit_s is not None) != self.has_submit_times:
                raise WrongInput(
                    "some requests have a submission time and some have none",
                    f"{self.path}, request {self.tally.requests}",
                    "fill in `submit_s` for all of them or for none",
                )
            yield request

    def pieces(self, max_cells: int = _CELLS) -> Iterator[list[Request]]:
        """Reads the requests in pieces that stay small when padded: at most `max_cells` numbers, if one row allows."""
        piece: list[Request] = []
        width = 1
        for request in self.requests():
            width = max(width, len(request.token_s))
            if piece and ((len(piece) + 1) * width > max_cells or len(piece) == _ROWS):
                yield piece
                piece, width = [], max(1, len(request.token_s))
            piece.append(request)
        if piece:
            yield piece


class PaddedRequests(NamedTuple):
    """Requests as tensors, named like the arguments of the metrics that take them."""

    token_times: Tensor  #: (N, L) seconds since submission, NaN-padded
    submit_times: Tensor | None  #: (N,) float64 seconds, or None where the log has none
    expected_tokens: Tensor  #: (N,) float64, NaN where unknown
    failed: Tensor  #: (N,) bool: failed or cancelled
    spread: Tensor  #: (N,) bool: tokens spread over chunks


def to_padded(requests: Sequence[Request], dtype: torch.dtype = torch.float64) -> PaddedRequests:
    """Turns requests into the tensors of the metrics.

    Args:
        requests: N requests, of one log.
        dtype: Of the token times. Submission times are float64 always: they may count from 1970.

    Returns:
        `PaddedRequests`; L is the longest request's tokens, at least 1.
    """
    lengths = torch.tensor([len(request.token_s) for request in requests], dtype=torch.int64)
    width = max(1, int(lengths.max())) if len(requests) else 1
    token_times = torch.full((len(requests), width), float("nan"), dtype=dtype)
    if int(lengths.sum()):
        flat = np.concatenate([request.token_s for request in requests])
        token_times[torch.arange(width) < lengths[:, None]] = torch.from_numpy(flat).to(dtype)
    submits = [request.submit_s for request in requests]
    known = [time for time in submits if time is not None]
    expected = [float("nan") if r.expected_tokens is None else float(r.expected_tokens) for r in requests]
    return PaddedRequests(
        token_times=token_times,
        submit_times=torch.tensor(known, dtype=torch.float64) if len(known) == len(submits) else None,
        expected_tokens=torch.tensor(expected, dtype=torch.float64),
        failed=torch.tensor([request.status in ("failed", "cancelled") for request in requests], dtype=torch.bool),
        spread=torch.tensor([request.spread for request in requests], dtype=torch.bool),
    )
