"""inference-perf's ``per_request_lifecycle_metrics.json``: an array, one object a request.

``start_time`` and ``info.output_token_times`` (newer: ``info.response_metrics.output_token_times``) are seconds of one
clock; token times are made relative to their request's start. The window is not stated: it follows from the submission
times. Where the entries are chunks (``output_tokens`` says otherwise), tokens are spread over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.latency_logs.chunks import as_count, as_float, as_times, check_times, spread_over_chunks
from datamodules.latency_logs.json_pieces import JsonScanner
from datamodules.latency_logs.records import LatencyLog, Request, Tally
from datamodules.wrong_input import WrongInput


def open_inference_perf(path: Path) -> Iterator[LatencyLog]:
    """Opens the one run of the file."""
    yield LatencyLog(path=path, name=path.stem, tool="inference-perf", window_s=None, rows=partial(_requests, path))


def _requests(path: Path, _: Tally) -> Iterator[Request]:
    first_start: float | None = None
    with path.open(encoding="utf-8") as stream:
        for number, row in enumerate(JsonScanner(stream, str(path)).items(), start=1):
            where = f"{path}, request {number}"
            if not isinstance(row, dict) or not isinstance(row.get("info"), dict):
                raise WrongInput("no `info`", where, "give inference-perf's per_request_lifecycle_metrics.json")
            start = as_float(row.get("start_time"), "start_time", where)
            first_start = start if first_start is None else first_start
            yield _request(where, row, start, start - first_start, number)


def _request(where: str, row: dict[str, Any], start: float, submit_s: float, number: int) -> Request:
    info: dict[str, Any] = row["info"]
    answer = {**info, **(info.get("response_metrics") or {})}
    prompt = (info.get("request_metrics") or {}).get("text") or info
    error = row.get("error")
    failed = error is not None
    chunks = as_times(answer.get("output_token_times") or [], "output_token_times", where) - start
    check_times(chunks, where)
    stated = as_count(answer.get("output_tokens") or 0, "output_tokens", where)
    if stated and not len(chunks) and not failed:
        mend = "run inference-perf with `api.streaming: true`: without times of tokens nothing can be said about them"
        raise WrongInput(f"{stated} tokens, but `output_token_times` is empty", where, mend)
    token_s = spread_over_chunks(chunks, stated or len(chunks))
    if isinstance(error, dict):
        error = f"{error.get('error_type', 'error')}: {error.get('error_msg', '')}"
    return Request(
        request_id=str(number - 1),
        submit_s=submit_s,
        token_s=token_s,
        input_tokens=as_count(prompt["input_tokens"], "input_tokens", where) if "input_tokens" in prompt else None,
        output_tokens=stated,
        status="failed" if failed else "ok" if len(token_s) else "empty",
        error=str(error or "error") if failed else "",
        n_chunks=len(chunks),
    )
