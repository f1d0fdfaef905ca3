"""Writes the project's own log: row by row so that a crash costs at most one, or whole so that it is all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.latency_logs.own import COLUMNS
from datamodules.latency_logs.records import Request
from datamodules.wrong_input import WrongInput

_BATCH = 4096  # rows of a Parquet row group


def to_row(request: Request) -> dict[str, Any]:
    """The row of a request, by column."""
    row = {name: getattr(request, name) for name in COLUMNS.names}
    return row | {"token_s": request.token_s.tolist()}


class LogWriter:
    """Appends requests to a log of JSON Lines while a run goes on; what is written survives the writer.

    Each row reaches the file in one write. A row that a crash has cut off is removed when the log is opened again.

    Args:
        path: The file, ``.jsonl``; its folder is made.
        append: Whether an existing log is continued; otherwise one that holds anything is refused.

    Raises:
        WrongInput: The file exists, holds something, and `append` is False.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from datamodules.latency_logs import LogWriter, Request, open_logs
        >>> path = Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> with LogWriter(path) as log:
        ...     log.write(Request("a", 0.0, np.array([0.2, 0.3]), input_tokens=5, output_tokens=2))
        >>> [request.token_s.tolist() for run in open_logs(path) for request in run.requests()]
        [[0.2, 0.3]]
    """

    def __init__(self, path: Path, append: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not append and path.exists() and path.stat().st_size:
            raise WrongInput("the log exists already", str(path), "give another file, or append to this one")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, _whole_rows(self._file))

    def write(self, request: Request) -> None:
        """Appends one request."""
        data = (json.dumps(to_row(request)) + "\n").encode()
        while data:  # a full disk or a signal may take a part only
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Closes the file; the log is complete without it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole_rows(file: int) -> int:
    """Length in bytes of the rows that end in a line break; the rest was cut off."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def write_parquet(path: Path, requests: Iterable[Request]) -> None:
    """Writes a whole log as Parquet; the file appears complete or not at all.

    Args:
        path: The file; its folder is made, an existing one is replaced.
        requests: Any number, taken one by one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(unfinished, COLUMNS) as writer:
            rows: list[dict[str, Any]] = []
            for request in requests:
                rows.append(to_row(request))
                if len(rows) == _BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=COLUMNS))
                    rows = []
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=COLUMNS))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
