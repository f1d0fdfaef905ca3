"""NVIDIA AIPerf's ``profile_export.jsonl``: one request a line, each number with its unit beside it.

``metadata.request_start_ns`` is a wall clock in nanoseconds; ``metrics.time_to_first_token`` and the list
``metrics.inter_chunk_latency`` are ``{value, unit}``, usually milliseconds. Gaps are between chunks;
``metrics.output_sequence_length`` counts tokens with AIPerf's tokenizer. Warm-up requests are passed over. The window
is not stated: it follows from the submission times.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.latency_logs.chunks import (
    arrival_times,
    as_count,
    as_float,
    as_times,
    check_times,
    spread_over_chunks,
)
from datamodules.latency_logs.lines import json_lines
from datamodules.latency_logs.records import LatencyLog, Request, Status, Tally
from datamodules.wrong_input import WrongInput

_PER_SECOND = {"s": 1, "sec": 1, "ms": 1_000, "us": 1_000_000, "µs": 1_000_000, "ns": 1_000_000_000}


def open_aiperf(path: Path) -> Iterator[LatencyLog]:
    """Opens the one run of the file."""
    yield LatencyLog(path=path, name=path.stem, tool="aiperf", window_s=None, rows=partial(_requests, path))


def _requests(path: Path, tally: Tally) -> Iterator[Request]:
    first_start: int | None = None
    for where, row in json_lines(path):
        metadata, metrics = row.get("metadata"), row.get("metrics") or {}
        if not isinstance(metadata, dict) or not isinstance(metrics, dict):
            raise WrongInput("no `metadata` and `metrics`", where, "give AIPerf's profile_export.jsonl as written")
        if metadata.get("benchmark_phase", "profiling") != "profiling":
            tally.skipped += 1
            continue
        start = as_count(metadata.get("request_start_ns"), "metadata.request_start_ns", where)
        # nanoseconds since 1970 do not fit a float64: subtract as integers, then turn to seconds
        first_start = start if first_start is None else first_start
        yield _request(where, row, metadata, metrics, (start - first_start) / 1e9, tally.requests)


def _request(
    where: str, row: dict[str, Any], metadata: dict[str, Any], metrics: dict[str, Any], submit_s: float, number: int
) -> Request:
    error = _error_text(row.get("error"))
    cancelled = bool(metadata.get("was_cancelled"))
    stated = as_count(_value(metrics, "output_sequence_length", where) or 0, "output_sequence_length", where)
    ttft = _seconds(metrics, "time_to_first_token", where)
    gaps = _seconds(metrics, "inter_chunk_latency", where)
    if len(ttft) > 1:
        raise WrongInput("`time_to_first_token` is a list", where, "give AIPerf's profile_export.jsonl as written")
    if stated and not len(ttft) and not (error or cancelled):
        mend = "run AIPerf with --streaming: without times of tokens nothing can be said about them"
        raise WrongInput(f"{stated} tokens, but no `time_to_first_token`", where, mend)
    chunks = arrival_times(ttft[0], gaps) if len(ttft) else ttft
    check_times(chunks, where)
    token_s = spread_over_chunks(chunks, stated or len(chunks))
    status: Status = "cancelled" if cancelled else "failed" if error else "ok" if len(token_s) else "empty"
    prompt = _value(metrics, "input_sequence_length", where)
    return Request(
        request_id=str(metadata.get("x_request_id") or number),
        submit_s=submit_s,
        token_s=token_s,
        input_tokens=None if prompt is None else as_count(prompt, "input_sequence_length", where),
        output_tokens=stated,
        status=status,
        error=error,
        n_chunks=len(chunks),
    )


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        parts = [str(error[key]) for key in ("code", "type", "message") if error.get(key) is not None]
        return ": ".join(parts) or "error"
    return str(error or "")


def _value(metrics: dict[str, Any], name: str, where: str) -> Any:
    """``metrics[name].value``, None where there is no such metric."""
    metric = metrics.get(name)
    if metric is None:
        return None
    if not isinstance(metric, dict) or "value" not in metric:
        raise WrongInput(f"`{name}` has no value and unit", where, "give AIPerf's profile_export.jsonl as written")
    return metric["value"]


def _seconds(metrics: dict[str, Any], name: str, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A metric, one number or a list, in seconds by its own unit: (c,), empty where there is no such metric."""
    value = _value(metrics, name, where)
    if value is None:
        return np.zeros(0)
    unit = metrics[name].get("unit")
    if unit not in _PER_SECOND:
        raise WrongInput(f"`{name}` is in {unit!r}, no unit of time that is known", where, "give s, ms, us or ns")
    values = as_times(value, name, where) if isinstance(value, list) else np.array([as_float(value, name, where)])
    return values / _PER_SECOND[unit]
