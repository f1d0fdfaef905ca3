"""vLLM's ``bench serve --save-result --save-detailed`` and SGLang's ``bench_serving --output-details``.

Both write one object a run, with a list a quantity and an entry a request: ``input_lens, output_lens, ttfts, itls,
errors`` and, in newer versions of vLLM, ``start_times`` (seconds of a monotonic clock). ``ttfts`` and ``itls`` are
seconds; ``duration``, seconds, is the window T. Several runs may follow one another in a file (SGLang: one a line).

What the fields do not say plainly:

- ``ttfts`` 0.0 means that no chunk came, not that the first one came at once.
- ``itls`` are gaps between chunks; a chunk may hold several tokens. See `datamodules.latency_logs.chunks`.
- The tools write ``output_lens`` 0 for each request that failed, and keep the times of the chunks that came before.
  Those were delivered, and each held at least one token: one a chunk is counted, and the log's tally says so.
- A request with neither tokens, chunks nor an error is ``empty``, not failed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

_LISTS = ("input_lens", "output_lens", "ttfts", "errors", "start_times")
_NEEDED = ("input_lens", "output_lens", "ttfts", "itls")
_SLACK = 1.01  # a request may end that much after the run's own clock stopped


class _Run:
    """The columns of one run, compact: 8 bytes a gap instead of a Python object."""

    def __init__(self, path: Path, number: int):
        self.where = str(path) if number == 1 else f"{path}, run {number}"
        self.lists: dict[str, list[Any]] = {}
        self.gaps = array("d")
        self.gap_ends = array("q", [0])
        self.facts: dict[str, Any] = {}

    def read(self, scanner: JsonScanner) -> None:
        """Takes the next object in, keeping the columns and the scalars and passing over the rest."""
        for key in scanner.members():
            if key == "itls":
                self._read_gaps(scanner)
            elif key in _LISTS:
                self.lists[key] = list(scanner.items())
            elif scanner.peek() in "[{":
                scanner.skip()
            else:
                self.facts[key] = scanner.value()

    def _read_gaps(self, scanner: JsonScanner) -> None:
        self.lists["itls"] = []  # known, and kept apart
        for row, gaps in enumerate(scanner.items(), start=1):
            self.gaps.frombytes(as_times(gaps, "itls", f"{self.where}, request {row}").tobytes())
            self.gap_ends.append(len(self.gaps))

    def check(self) -> int:
        """Number of requests, once all columns are there and agree on it."""
        missing = [name for name in _NEEDED if name not in self.lists]
        if missing:
            raise WrongInput(
                f"no per-request times: {', '.join(missing)} missing",
                self.where,
                "write them: vLLM `bench serve --save-result --save-detailed`, SGLang `--output-details`",
            )
        lengths = {name: len(column) for name, column in self.lists.items()} | {"itls": len(self.gap_ends) - 1}
        wrong = [f"{name} {length}" for name, length in lengths.items() if length != lengths["ttfts"]]
        if wrong:
            raise WrongInput(
                f"the lists' lengths disagree: ttfts {lengths['ttfts']}, {', '.join(wrong)}",
                self.where,
                "give each request an entry in every list",
            )
        return lengths["ttfts"]

    def window(self) -> float | None:
        """T: the run's own duration; None where it is not stated."""
        if self.facts.get("duration") is None:
            return None
        duration = as_float(self.facts["duration"], "duration", self.where)
        if not 0 < duration < float("inf"):
            raise WrongInput(f"`duration` is {duration:g} s", self.where, "a window must be above 0 and finite")
        return duration

    def tool(self) -> str:
        """Which of the two wrote it."""
        sglang = {"total_output_tokens_retokenized", "sharegpt_output_len", "server_info"} & self.facts.keys()
        return "sglang" if sglang or str(self.facts.get("backend", "")).startswith("sglang") else "vllm"

    def requests(self, window_s: float | None, _: Tally) -> Iterator[Request]:
        """The requests, one by one."""
        starts = self.lists.get("start_times")
        errors = self.lists.get("errors")
        gaps: NDArray[np.float64] = np.frombuffer(self.gaps, dtype=np.float64)
        for index in range(len(self.lists["ttfts"])):
            where = f"{self.where}, request {index + 1}"
            stated = as_count(self.lists["output_lens"][index], "output_lens", where)
            error = str((errors[index] if errors else "") or "")
            ttft = as_float(self.lists["ttfts"][index], "ttfts", where)
            row_gaps = gaps[self.gap_ends[index] : self.gap_ends[index + 1]]
            chunks = arrival_times(ttft, row_gaps) if ttft != 0 or len(row_gaps) else row_gaps
            if stated and not len(chunks) and not error:
                mend = "stream the answers: without times of tokens nothing can be said about them"
                raise WrongInput(f"{stated} tokens, but no time of the first one", where, mend)
            check_times(chunks, where)
            if window_s is not None and len(chunks) and chunks[-1] > window_s * _SLACK:
                what = f"a token after {chunks[-1]:g} s of a run of {window_s:g} s"
                raise WrongInput(what, where, "give `ttfts`, `itls` and `duration` in seconds")
            token_s = spread_over_chunks(chunks, stated or len(chunks))
            yield Request(
                request_id=str(index),
                submit_s=as_float(starts[index], "start_times", where) if starts else None,
                token_s=token_s,
                input_tokens=as_count(self.lists["input_lens"][index], "input_lens", where),
                output_tokens=stated,
                status="failed" if error else "ok" if len(token_s) else "empty",
                error=error,
                n_chunks=len(chunks),
            )


def open_bench(path: Path) -> Iterator[LatencyLog]:
    """Opens each run of a file of vLLM's or SGLang's."""
    with path.open(encoding="utf-8") as stream:
        scanner = JsonScanner(stream, str(path))
        number = 0
        while scanner.peek():
            number += 1
            run = _Run(path, number)
            run.read(scanner)
            run.check()
            several = number > 1 or scanner.peek() != ""
            window = run.window()
            yield LatencyLog(
                path=path,
                name=f"{path.stem}.{number}" if several else path.stem,
                tool=run.tool(),
                window_s=window,
                rows=partial(run.requests, window),
            )
