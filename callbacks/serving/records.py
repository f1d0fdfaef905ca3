"""Served requests as rows of the project's own latency log."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.latency_logs.records import Request
from datamodules.latency_logs.writing import to_row
from datamodules.responses import write_jsonl


class ServedRequest(Protocol):
    """What a module says of a request that it has served: the columns of a log."""

    submit_s: float
    token_s: list[float]
    status: Any

    def _asdict(self) -> dict[str, Any]: ...


def to_requests(served: Iterable[ServedRequest]) -> list[Request]:
    """Rows of a log, by submission."""
    columns: list[dict[str, Any]] = [
        one._asdict() | {"token_s": np.asarray(one.token_s, dtype=np.float64)} for one in served
    ]
    rows = [Request(**row) for row in columns]
    return sorted(rows, key=lambda row: row.submit_s or 0.0)


def write_log(path: Path, requests: Iterable[Request]) -> None:
    """A whole log, which appears complete or not at all."""
    write_jsonl(path, map(to_row, requests))


def whole_tokens(requests: Iterable[Request]) -> int:
    """Tokens of all requests together."""
    return sum(len(request.token_s) for request in requests)


def last_delivery_s(requests: Iterable[Request]) -> float:
    """When the last token of all came, in seconds since the workload began."""
    return max((request.submit_s or 0.0) + float(request.token_s[-1]) for request in requests if len(request.token_s))
