"""Etalon's ``request_level_metrics.json``: a list a quantity, ``ttft[]`` and ``tbt[][]`` in seconds.

It has neither submission times nor the run's duration nor errors: the window must be given by the user, or no rate
exists, and a request without tokens cannot be told from one that failed. Etalon writes a TTFT of 0 where nothing came.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.latency_logs.chunks import (
    arrival_times,
    as_count,
    as_float,
    as_times,
    check_times,
    spread_over_chunks,
)
from datamodules.latency_logs.json_pieces import JsonScanner
from datamodules.latency_logs.records import LatencyLog, Request, Tally
from datamodules.wrong_input import WrongInput

_LISTS = ("ttft", "tbt", "num_prompt_tokens", "num_output_tokens")


def open_etalon(path: Path) -> Iterator[LatencyLog]:
    """Opens the one run of the file."""
    columns: dict[str, list[Any]] = {}
    with path.open(encoding="utf-8") as stream:
        scanner = JsonScanner(stream, str(path))
        for key in scanner.members():
            if key == "tbt":  # as arrays of numbers: a tenth of the memory of lists
                gaps = enumerate(scanner.items(), start=1)
                columns[key] = [as_times(row, "tbt", f"{path}, request {number}") for number, row in gaps]
            elif key in _LISTS:
                columns[key] = list(scanner.items())
            else:
                scanner.skip()
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise WrongInput(f"the lists' lengths disagree: {told}", str(path), "give each request an entry in every list")
    yield LatencyLog(path=path, name=path.stem, tool="etalon", window_s=None, rows=partial(_requests, path, columns))


def _requests(path: Path, columns: dict[str, list[Any]], _: Tally) -> Iterator[Request]:
    prompts, counts = columns.get("num_prompt_tokens"), columns.get("num_output_tokens")
    for index, (first, gaps) in enumerate(zip(columns["ttft"], columns["tbt"], strict=True)):
        where = f"{path}, request {index + 1}"
        ttft = as_float(first, "ttft", where)
        chunks = arrival_times(ttft, gaps) if ttft != 0 or len(gaps) else gaps
        check_times(chunks, where)
        stated = as_count(counts[index], "num_output_tokens", where) if counts else len(chunks)
        token_s = spread_over_chunks(chunks, stated or len(chunks))
        yield Request(
            request_id=str(index),
            submit_s=None,
            token_s=token_s,
            input_tokens=as_count(prompts[index], "num_prompt_tokens", where) if prompts else None,
            output_tokens=stated,
            status="ok" if len(token_s) else "empty",
            n_chunks=len(chunks),
        )
