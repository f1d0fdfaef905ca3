"""How fast a daDPO step is and how much memory it takes: packed and cached, against padded, live, and TRL's trainer.

``python -m benchmarks.dadpo`` prints a table a size and workload (``--sizes``, ``--workloads``: short chat, or long
prompts, long responses, a vocabulary of 152k); ``--write`` also puts them into ``benchmarks/dadpo.md``. All sides see
the same pairs in the same steps, start from the same student, and step with the same optimizer; that the losses of all
steps agree to 1e-4 is checked. They take turns, each with its own framework's loop, whose first step is not timed, and
a step's time is the median over all turns (of ``live``, over the first):

- ``packed``: ``DaDPOModule`` on packed rows, each prompt once a pair, scores from the cache (the default).
- ``padded``: the same with ``packing=off``: a padded row a response.
- ``live``: padded, with reference and teacher in memory and run in each step: what daDPO costs without a cache.
- ``TRL``: TRL's DPOTrainer with the teacher's term put into its precomputed reference log-probabilities (daDPO is DPO
  at β = β1 + β2 from the reference (β1·ref + β2·te)/(β1 + β2)); precomputed, fused AdamW, no gradient checkpointing.
  It has no packing and no prompt sharing, its ``padding_free`` is switched off, and its chunked head is always on.

The floor is the arithmetic that no implementation can do without (student forward and backward, each prompt once, head
on response tokens, attention on the pairs of tokens that see each other) at the rate of matrix products in this run.
Memory is the process's peak over two steps above what it held before the first, less the optimizer's state; each side
in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
import trl

from benchmarks.dadpo_sides import BETA_REF, BETA_TEACHER, PAIRS, SIZES, WORKLOADS, Bench, Size

SIDES = ("packed", "padded", "live", "TRL")


class Result(NamedTuple):
    """One side at one size."""

    seconds: float
    """Of a step of 8 pairs, median."""
    share: float | None
    """Of computed tokens that are useful; None where the framework does not say."""
    peak_bytes: float | None


def matmul_rate(size: Size, now: Any) -> float:
    """FLOP/s of the student's largest matrix products, the best of several."""
    tokens, best = 2048, 0.0
    left, right = torch.randn(tokens, size.width), torch.randn(size.width, 4 * size.width)
    for _ in range(20):
        start = now()
        for _ in range(5):
            left @ right
        best = max(best, 5 * 2 * tokens * 4 * size.width**2 / (now() - start))
    return best


def floor_flops(bench: Bench) -> tuple[float, float]:
    """FLOP and tokens a timed pair: 3·[2N(P+T+S) + 2hV(T+S)], and attention where one token sees another."""
    width, layers = bench.size.width, bench.size.layers
    key_width = 2 * bench.size.head_width
    body = layers * (2 * width * width + 2 * width * key_width + 3 * width * 4 * width)
    data = bench.data("off", scored=False)
    data.setup("fit")
    _, *timed = [batch.row_ids for batch in data.train_dataloader()]  # the first step is not timed
    pairs = [pair for pair in data.train_pairs if any(pair.chosen.place in places for places in timed)]
    total = tokens = 0.0
    for pair in pairs:
        p, t, s = pair.chosen.prompt_length, len(pair.chosen.response), len(pair.rejected.response)
        seen = p * (p + 1) / 2 + sum(r * p + r * (r + 1) / 2 for r in (t, s))
        total += 3 * (
            2 * body * (p + t + s) + 2 * width * bench.workload.vocabulary * (t + s) + 4 * layers * width * seen
        )
        tokens += p + t + s
    return total / len(pairs), tokens / len(pairs)


def peak_of(name: str, workload: str, side: str, folder: Path) -> float | None:
    """In a process of its own, which finds scores and models made."""
    which = ["--sizes", name, "--workloads", workload, "--folder", str(folder)]
    command = [sys.executable, "-m", "benchmarks.dadpo", "--memory", side, *which]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    name: str, workload: str, folder: Path, threads: int, turns: int | None
) -> tuple[dict[str, Result], float, float, float]:
    """Each side's result, the matmul rate, and the floor's FLOP and tokens a pair."""
    size = SIZES[name]
    bench = Bench(size, folder, threads, WORKLOADS[workload])
    bench.score()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    shares: dict[str, list[float]] = {side: [] for side in SIDES}
    now = time.process_time if threads == 1 else time.perf_counter
    rate, losses = 0.0, list[float]()
    for turn in range(turns or size.turns):
        rate = max(rate, matmul_rate(size, now))
        for side in SIDES if turn == 0 else [side for side in SIDES if side != "live"]:
            clock = bench.run(side)
            losses = losses or clock.losses
            if (worst := max(abs(a - b) for a, b in zip(losses, clock.losses, strict=True))) > 1e-4:
                raise SystemExit(f"the losses of {side} differ from those of {SIDES[0]} by {worst}")
            seconds[side] += clock.seconds
            shares[side] += clock.shares
            print(f"  turn {turn + 1}, {side}: {statistics.median(clock.seconds):.3f} s a step", flush=True)
    peaks = {side: peak_of(name, workload, side, folder) for side in SIDES}
    results = {
        side: Result(
            statistics.median(seconds[side]), statistics.mean(shares[side]) if shares[side] else None, peaks[side]
        )
        for side in SIDES
    }
    return results, rate, *floor_flops(bench)


def rows_of(name: str, workload: str, measured: tuple[dict[str, Result], float, float, float]) -> list[str]:
    """The table of one size under one workload."""
    results, rate, flops, tokens = measured
    theirs = results["TRL"]
    prompt, response, vocabulary = WORKLOADS[workload]
    lines = [
        f"## Qwen2, width {SIZES[name].width}, {SIZES[name].layers} layers, {workload.replace('_', ' ')}",
        "",
        f"Prompts of {prompt[0]}–{prompt[1]} tokens, responses of {response[0]}–{response[1]}, "
        f"vocabulary {vocabulary} (tied).",
        f"Floor: {flops / 1e9:.2f} GFLOP a pair of {tokens:.0f} useful tokens; "
        f"matrix products: {rate / 1e9:.0f} GFLOP/s.",
        "",
        "| | pairs/s | useful tokens/s | times TRL | share of the floor rate | useful tokens "
        "| memory, MiB | times TRL |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for side, result in results.items():
        pairs = PAIRS / result.seconds
        share = "" if result.share is None else f"{result.share:.1%}"
        memory = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}"
        times = "" if not (result.peak_bytes and theirs.peak_bytes) else f"{result.peak_bytes / theirs.peak_bytes:.2f}"
        lines.append(
            f"| {side} | {pairs:.2f} | {pairs * tokens:,.0f} | {theirs.seconds / result.seconds:.2f} "
            f"| {pairs * flops / rate:.2f} | {share} | {memory} | {times} |"
        )
    return [*lines, ""]


def table(names: list[str], workloads: list[str], threads: int, turns: int | None) -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    clock = "processor time of the one thread" if threads == 1 else "wall time"
    lines = [
        f"{PAIRS} pairs a step, float32, β1 = {BETA_REF}, β2 = {BETA_TEACHER}; {threads} thread(s), {clock}, "
        f"load average {os.getloadavg()[0]:.1f}; {versions}, TRL {trl.__version__}.",
        "",
    ]
    for name, workload in itertools.product(names, workloads):
        with tempfile.TemporaryDirectory() as folder:
            lines += rows_of(name, workload, measure(name, workload, Path(folder), threads, turns))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["chat"])
    parser.add_argument("--turns", type=int, help="of each side (default: a size's own)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="also write benchmarks/dadpo.md")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.memory:
        workload = WORKLOADS[options.workloads[0]]
        clock = Bench(SIZES[options.sizes[0]], options.folder, 1, workload).run(options.memory)
        print(json.dumps(clock.extra_bytes))
    else:
        text = table(options.sizes, options.workloads, options.threads, options.turns)
        print(text)
        if options.write:
            title = "# daDPO: speed and memory, written by `python -m benchmarks.dadpo --write`\n\n"
            Path(__file__).with_suffix(".md").write_text(title + text)
