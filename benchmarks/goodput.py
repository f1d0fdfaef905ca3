"""How fast smooth goodput is, and how much memory it takes: 10 million tokens in 100 000 requests.

``python -m benchmarks.goodput`` prints a table; ``--write`` also puts it into ``benchmarks/goodput.md``. All contenders
see the same times in the same run, with one thread each, because NumPy's passes and Python's loops have no more:

- ``NumPy sum``: ``x.sum()`` over the padded matrix, the least that reads all of its bytes; its result is NaN.
- ``NumPy pass``: ``np.fmax.reduce(x, axis=1)``, a bare pass that knows padding and yields a number a request.
- ``NumPy formula``: ``np.fmax.reduce(x - due, axis=1)``, the worst lateness of each request, without any check.
- ``loop, smooth goodput``: one request after the other in Python, the idle latency token by token.
- ``loop, as vLLM``: what vLLM's ``calculate_metrics`` does, likewise a Python loop over the requests: TTFT, TPOT and
  E2E lists, all gaps in one list, tokens put into buckets of a second, then NumPy's percentiles. No idle latency.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from callbacks.goodput import GoodputReport, SmoothGoodput, smooth_goodput

SPEED, ALPHA, WINDOW_S = 5.0, 2.5, 600.0


class Result(NamedTuple):
    """One contender: its fastest run, and the memory it took beside what was there."""

    name: str
    seconds: float
    extra_bytes: float | None


def make_times(n_requests: int, mean_tokens: int) -> torch.Tensor:
    """(N, 2 * mean - 1) float64, lengths uniform from 1; the same for everybody, from a seed."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 2 * mean_tokens, (n_requests,), generator=generator)
    times = torch.rand(n_requests, 2 * mean_tokens - 1, generator=generator, dtype=torch.float64)
    times = times.mul_(0.3).cumsum_(1)
    times[torch.arange(times.shape[1]) >= lengths[:, None]] = float("nan")
    return times


def loop_smooth_goodput(requests: list[list[float]]) -> float:
    total = 0.0
    for times in requests:
        worst = 0.0
        for i, t in enumerate(times, start=1):
            late = t - i / SPEED
            if late > worst:
                worst = late
        total += len(times) - ALPHA * worst
    return total / WINDOW_S


def loop_as_vllm(requests: list[list[float]], gaps: list[list[float]]) -> dict[str, float]:
    ttfts, tpots, e2els, itls = [], [], [], []
    good = 0
    buckets = np.zeros(int(WINDOW_S))
    for times, request_gaps in zip(requests, gaps, strict=True):
        ttfts.append(times[0])
        e2els.append(times[-1])
        tpot = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        tpots.append(tpot)
        itls += request_gaps
        good += times[0] <= 1.0 and tpot <= 0.2
        now = times[0]
        arrivals = [now]
        for gap in request_gaps:
            now += gap
            arrivals.append(now)
        for arrival in arrivals:
            second = int(arrival)
            if 0 <= second < len(buckets):
                buckets[second] += 1
    result = {"goodput": good / WINDOW_S, "peak": float(buckets.max())}
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", itls), ("e2el", e2els)):
        result |= {f"mean_{name}": float(np.mean(values)), f"std_{name}": float(np.std(values))}
        result |= {f"median_{name}": float(np.median(values)), f"p99_{name}": float(np.percentile(values, 99))}
    return result


def _proc(file: str, field: str) -> str | None:
    """What follows a field's colon in a file of /proc, None where there is no such thing."""
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if line.startswith(field)), None)


def extra_memory(run: Callable[[], Any]) -> float | None:
    """Bytes by which the process's resident memory peaks above where it stood, on Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    except OSError:
        return None
    before = _proc("self/status", "VmRSS")
    run()
    peak = _proc("self/status", "VmHWM")
    return None if peak is None or before is None else 1024.0 * max(0, int(peak.split()[0]) - int(before.split()[0]))


def measure(name: str, run: Callable[[], Any], repeats: int) -> Result:
    """Memory of the first call, seconds of the fastest."""
    extra = extra_memory(run)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return Result(name, min(seconds), extra)


def measure_all(times: torch.Tensor, repeats: int) -> dict[str, Result]:
    array = times.numpy()
    due = np.arange(1, array.shape[1] + 1) / SPEED
    requests = [row[~np.isnan(row)].tolist() for row in array]
    gaps = [np.diff(row).tolist() for row in requests]

    def with_metric(kind: type[SmoothGoodput]) -> Any:
        metric = kind(SPEED, ALPHA)
        metric.update(times, window_s=WINDOW_S)
        return metric.compute()

    def with_function() -> torch.Tensor:
        return smooth_goodput(times, window_s=WINDOW_S, reading_speed=SPEED, alpha=ALPHA)

    functional, looped = float(with_function()), loop_smooth_goodput(requests)
    if abs(functional - looped) > 1e-6 * abs(looped):
        raise SystemExit(f"the two disagree: {functional} and {looped}")
    contenders: dict[str, tuple[str, Callable[[], Any], int]] = {
        "functional": ("`smooth_goodput`", with_function, repeats),
        "metric": ("`SmoothGoodput`", lambda: with_metric(SmoothGoodput), repeats),
        "report": ("`GoodputReport` (everything)", lambda: with_metric(GoodputReport), 2),
        "sum": ("NumPy sum", lambda: array.sum(), repeats),
        "pass": ("NumPy pass", lambda: np.fmax.reduce(array, axis=1), repeats),
        "formula": ("NumPy formula", lambda: np.fmax.reduce(array - due, axis=1), repeats),
        "loop": ("loop, smooth goodput", lambda: loop_smooth_goodput(requests), 2),
        "vllm": ("loop, as vLLM", lambda: loop_as_vllm(requests, gaps), 1),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {key: measure(*contender) for key, contender in contenders.items()}
    torch.set_num_threads(threads)
    name, run, repeats = contenders["functional"]
    return results | {"threads": measure(f"{name}, {threads} threads", run, repeats)}


def table(times: torch.Tensor, results: dict[str, Result]) -> str:
    tokens, size = int((~times.isnan()).sum()), times.numel() * times.element_size()
    machine = f"{_proc('cpuinfo', 'model name') or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    lines = [
        f"{tokens:,} tokens in {len(times):,} requests: float64 {tuple(times.shape)}, {size / 2**20:.0f} MiB.",
        f"{machine}, load average {os.getloadavg()[0]:.1f}; {versions}. One process, one thread where nothing else is",
        "said, the best of several runs. The targets are for the functional and the metric.",
        "",
        "| | ms | million tokens/s | memory beside the tensor, MiB |",
        "|---|---:|---:|---:|",
    ]
    for r in results.values():
        extra = "?" if r.extra_bytes is None else f"{r.extra_bytes / 2**20:.0f}"
        lines.append(f"| {r.name} | {r.seconds * 1e3:.1f} | {tokens / r.seconds / 1e6:.1f} | {extra} |")
    lines += ["", "| ratio | target | functional | metric | report |", "|---|---:|---:|---:|---:|"]
    ours = [results[key] for key in ("functional", "metric", "report")]
    for key, label, target in (
        ("vllm", "times as fast as the loop, as vLLM", "at least 20"),
        ("loop", "times as fast as the leanest loop", "at least 20, were it the loop"),
        ("pass", "times the NumPy pass", "at most 3"),
        ("formula", "times the NumPy formula", "at most 3"),
        ("sum", "times the NumPy sum", "at most 3, were it the pass"),
    ):
        faster = key in ("loop", "vllm")
        ratios = [results[key].seconds / r.seconds if faster else r.seconds / results[key].seconds for r in ours]
        lines.append(f"| {label} | {target} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    memory = ["?" if r.extra_bytes is None else f"{1 + r.extra_bytes / size:.2f}" for r in ours]
    lines.append("| peak memory, times the tensor (itself included) | at most 4 | " + " | ".join(memory) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--mean-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="also write benchmarks/goodput.md")
    options = parser.parse_args()
    token_times = make_times(options.requests, options.mean_tokens)
    text = table(token_times, measure_all(token_times, options.repeats))
    print(text)
    if options.write:
        title = "# Smooth goodput: speed and memory, written by `python -m benchmarks.goodput --write`\n\n"
        Path(__file__).with_suffix(".md").write_text(title + text)
