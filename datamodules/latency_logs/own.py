"""The project's own log: one row a request, as Parquet or as JSON Lines, with the columns of `COLUMNS`.

``token_s`` lists the seconds from submission to the delivery of each token; ``submit_s`` is on a clock that the rows
share, or null in all of them. ``input_tokens``, ``expected_tokens`` and ``error`` may be null or left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.latency_logs.chunks import as_count, as_float, as_times, check_times
from datamodules.latency_logs.lines import json_lines
from datamodules.latency_logs.records import LatencyLog, Request, Status, Tally
from datamodules.wrong_input import WrongInput

COLUMNS = pa.schema(
    [
        ("request_id", pa.string()),
        ("submit_s", pa.float64()),
        ("token_s", pa.list_(pa.float64())),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("expected_tokens", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)

_NEEDED = ("request_id", "token_s", "status")
_BATCH = 4096  # rows of Parquet at a time


def open_jsonl(path: Path) -> Iterator[LatencyLog]:
    """Opens a log of JSON Lines."""
    yield LatencyLog(path=path, name=path.stem, tool="smoothtalk", window_s=None, rows=partial(_json_requests, path))


def open_parquet(path: Path) -> Iterator[LatencyLog]:
    """Opens a log in Parquet."""
    names = _parquet(path).schema_arrow.names
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        what = f"no latency log: the columns {', '.join(missing)} are missing"
        raise WrongInput(what, str(path), f"give the columns {', '.join(COLUMNS.names)}")
    rows = partial(_parquet_requests, path)
    yield LatencyLog(path=path, name=path.stem, tool="smoothtalk", window_s=None, rows=rows)


def _json_requests(path: Path, _: Tally) -> Iterator[Request]:
    for where, row in json_lines(path):
        missing = [name for name in _NEEDED if name not in row]
        if missing:
            raise WrongInput(f"{', '.join(missing)} missing", where, f"give the fields {', '.join(COLUMNS.names)}")
        yield _request(where, row, as_times(row["token_s"] or [], "token_s", where))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise WrongInput(
            f"not readable as Parquet: {error}", str(path), "was the file cut off? write it anew"
        ) from None


def _parquet_requests(path: Path, _: Tally) -> Iterator[Request]:
    number = 0
    with _parquet(path) as file:
        columns = [name for name in COLUMNS.names if name in file.schema_arrow.names]
        # a reader keeps the row groups that it has passed: one for each lets them go
        readers = (
            file.iter_batches(_BATCH, row_groups=[group], columns=columns) for group in range(file.num_row_groups)
        )
        for batch in chain.from_iterable(readers):
            try:
                lists = batch.column("token_s").cast(COLUMNS.field("token_s").type)
            except pa.ArrowException as error:
                mend = "give `token_s` as a list of seconds"
                raise WrongInput(f"`token_s` holds no times: {error}", str(path), mend) from None
            # the times stay an array; only the small columns become Python objects
            times = lists.flatten().to_numpy(zero_copy_only=False)
            ends = np.cumsum(lists.value_lengths().fill_null(0).to_numpy())
            rest = batch.drop_columns(["token_s"]).to_pylist()
            for row, end, start in zip(rest, ends, np.concatenate(([0], ends)), strict=False):
                number += 1
                yield _request(f"{path}, row {number}", row, times[start:end])


def _request(where: str, row: dict[str, Any], token_s: np.ndarray[Any, np.dtype[np.float64]]) -> Request:
    check_times(token_s, where)
    status: Status = row["status"]
    if status not in get_args(Status):
        raise WrongInput(f"`status` is {status!r}", where, f"give one of {', '.join(get_args(Status))}")
    if status == "ok" and not len(token_s):
        status = "empty"
    stated = row.get("output_tokens")
    output_tokens = len(token_s) if stated is None else as_count(stated, "output_tokens", where)
    if status == "ok" and output_tokens != len(token_s):
        what = f"the lengths disagree: {output_tokens} output_tokens, {len(token_s)} times in `token_s`"
        raise WrongInput(what, where, "give a time for each token")
    optional = {name: row.get(name) for name in ("input_tokens", "expected_tokens")}
    counts = {name: None if value is None else as_count(value, name, where) for name, value in optional.items()}
    submit = row.get("submit_s")
    submit_s = None if submit is None else as_float(submit, "submit_s", where)
    if submit_s is not None and not np.isfinite(submit_s):
        raise WrongInput(f"`submit_s` is {submit_s}", where, "give seconds on one clock, or null in every row")
    return Request(
        request_id=str(row["request_id"]),
        submit_s=submit_s,
        token_s=token_s,
        input_tokens=counts["input_tokens"],
        output_tokens=output_tokens,
        expected_tokens=counts["expected_tokens"],
        status=status,
        error=str(row.get("error") or ""),
    )
