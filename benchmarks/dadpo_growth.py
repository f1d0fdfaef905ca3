"""What the data side of daDPO costs a pair as the pairs grow, from 1 000 to 100 000, without any model.

``python -m benchmarks.dadpo_growth`` prints a table; ``--write`` also puts it into ``benchmarks/dadpo_growth.md``, with
the figure beside it. Each size runs in a process of its own, after the same work on ``WARM`` other pairs, so that
libraries and allocator are warm. The pairs are made up from a seed (words of syllables in turns, through the almanac's
chat template and tokenizer), lie in a JSON-lines file, and have their scores in a cache that the same process filled:

- ``encode``: ``setup()``: rows read, checked, through the template, tokenised, split;
- ``look up``: the scores of all training pairs;
- ``pack``: batches of ``BATCH`` pairs from pairs that have been read;
- ``epoch``: all batches of the training loader, as a trainer would take them: order, reading, packing;
- ``to score``: all batches of the scores stage for both models, no score being there: what is missing, its order by
  length, reading, packing. No part of training, as the next is not;
- ``store``: scores of both models for both responses put into the cache, 1000 pairs a time, as the scores stage does
  with a batch. They are appended; the first look-up after that puts them in the order of their keys.

Memory is by how much the process's resident memory peaks above where it stood when it was warm (Linux); beside it, by
how much more it grows when the same encoded pairs are then read into a Python list.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from datamodules.almanac import almanac_tokenizer
from datamodules.encoding import load_tokenizer
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.scored_pairs import response_key
from lightning_modules.exporting import export
from lightning_modules.language_model import build_language_model

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
PHASES = ("encode", "look up", "pack", "epoch", "to score", "store")
BATCH, PART, WARM = 8, 1000, 300
SYLLABLES = ("ka", "ro", "mi", "ten", "sol", "va", "der", "lu", "pen", "gar", "ist", "on")
MODEL = {"model_type": "qwen2", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
MODEL |= {"num_attention_heads": 1, "num_key_value_heads": 1}


def write_pairs(path: Path, count: int, seed: int) -> None:
    """Prompts of 10 to 20 words, responses of 10 to 50."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randrange(1, 4))) for _ in range(2000)]

    def turn(role: str, longest: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(rng.choices(words, k=rng.randrange(10, longest)))}]

    with path.open("w") as file:
        for _ in range(count):
            row = {"prompt": turn("user", 20), "chosen": turn("assistant", 50), "rejected": turn("assistant", 50)}
            file.write(json.dumps(row) + "\n")


def work(pairs: Path, folder: Path) -> tuple[dict[str, float], PreferencePairsDataModule]:
    """Processor seconds of each phase, over all pairs of a file, and what holds them."""
    models = {name: str(folder / name) for name in ("reference", "teacher")}
    seconds = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, run: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        result = run(*arguments)
        seconds[phase] += time.process_time() - started
        return result

    settings: dict[str, Any] = {"packing": "auto", "batch_size": BATCH, "val_fraction": 0.0, **models}
    tokenizer = load_tokenizer(models["reference"])
    data = PreferencePairsDataModule(str(pairs), tokenizer, cache_dir=folder / pairs.stem, **settings)
    timed("encode", data.setup, "fit")
    timed("to score", lambda: [None for loader in data.predict_dataloader() for _ in loader])
    for start in range(0, len(data.train_pairs), PART):
        part = data.train_pairs[start : start + PART]
        made = {response_key(each): -float(len(each.ids)) for pair in part for each in pair.responses}
        for name in models:
            timed("store", data.cache(name).write, made)
    timed("look up", data.train_scores)
    loader = data.train_dataloader()
    for rows in loader.batch_sampler:  # type: ignore[union-attr]
        timed("pack", loader.collate_fn, [loader.dataset[row] for row in rows])
    timed("epoch", lambda: [None for _ in loader])
    return seconds, data


def resident(field: str) -> int:
    """Bytes that a field of /proc/self/status holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def measure_here(pairs: Path, count: int, folder: Path) -> dict[str, float]:
    """Microseconds a pair of each phase (the fastest of some runs where they are short), and bytes of the peak."""
    write_pairs(folder / "warm.jsonl", WARM, seed=1)
    work(folder / "warm.jsonl", folder)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    seconds, data = work(pairs, folder)
    peak, before = resident("VmHWM") - before, resident("VmRSS")
    held = list(data.train_pairs)
    listed = resident("VmRSS") - before
    del held
    for _ in range(1, max(1, 5_000 // count)):
        again, _ = work(pairs, folder)
        seconds = {phase: min(seconds[phase], again[phase]) for phase in PHASES}
    return {phase: 1e6 * seconds[phase] / count for phase in PHASES} | {"peak": peak, "list": listed}


def measure(count: int, folder: Path) -> dict[str, float]:
    """The same in a process of its own."""
    pairs = folder / f"pairs_{count}.jsonl"
    write_pairs(pairs, count, seed=0)
    command = [sys.executable, "-m", "benchmarks.dadpo_growth", "--measure", str(pairs), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[int, dict[str, float]]) -> str:
    versions = f"Python {platform.python_version()}, {os.cpu_count()} cores, of which one is used"
    lines = [
        f"{versions}; load average {os.getloadavg()[0]:.1f}. Microseconds of processor time a pair, and by how many",
        "MiB the process grew above what it held when it was warm. `to score` and `store` are the scores stage's,",
        "without its models; `look up` includes putting in order what was stored.",
        "",
        f"| pairs | {' | '.join(PHASES)} | peak, MiB | as a list, MiB |",
        f"|---:|{'---:|' * (len(PHASES) + 2)}",
    ]
    for count, result in results.items():
        times = " | ".join(f"{result[phase]:.1f}" for phase in PHASES)
        lines.append(f"| {count:,} | {times} | {result['peak'] / 2**20:.1f} | {result['list'] / 2**20:.1f} |")
    least, most = results[min(results)], results[max(results)]
    ratios = " | ".join(f"{most[phase] / least[phase]:.2f}" for phase in PHASES)
    lines += [f"| most to least | {ratios} | | |", ""]
    if len(results) > 1:
        before, last = sorted(results)[-2:]
        ours, listed = ((results[last][key] - results[before][key]) / (last - before) for key in ("peak", "list"))
        lines += [
            f"Memory between the two largest sizes: {ours:.0f} bytes a pair (SQLite's page caches fill up before",
            f"that), {listed:.0f} more were the pairs in a list.",
        ]
    return "\n".join([*lines, "", "![time and memory over the pairs](dadpo_growth.svg)", ""])


def draw(results: dict[int, dict[str, float]], path: Path) -> None:
    """Time a pair of each phase, and memory, over the number of pairs."""
    sizes = list(results)
    with mpl.rc_context({"svg.hashsalt": "smoothtalk", "font.size": 9}):
        figure = Figure(figsize=(8.6, 3.2), layout="constrained")
        times, memory = figure.subplots(1, 2)
        for phase in PHASES:
            times.plot(sizes, [results[size][phase] for size in sizes], marker="o", label=phase)
        times.set(xscale="log", yscale="log", xlabel="pairs", ylabel="µs a pair", title="Time a pair")
        times.set_ylim(bottom=1)
        times.legend(fontsize=8, ncols=3, loc="lower left")
        for key, label in (("peak", "peak of it all"), ("list", "the pairs, were they in a list")):
            memory.plot(sizes, [max(result[key], 1) / 2**20 for result in results.values()], marker="o", label=label)
        memory.set(xscale="log", yscale="log", xlabel="pairs", ylabel="MiB", title="Memory of the data side")
        memory.set_ylim(1, 1000)
        memory.legend(fontsize=8, loc="upper left")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--write", action="store_true", help="also write benchmarks/dadpo_growth.md and .svg")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.measure:
        file, number, place = options.measure
        print(json.dumps(measure_here(Path(file), int(number), Path(place))))
    else:
        with tempfile.TemporaryDirectory() as made:
            tokenizer = almanac_tokenizer()
            for name in ("reference", "teacher"):  # two models, so that each has a cache of its own
                export(build_language_model(MODEL, tokenizer), tokenizer, Path(made) / name)
            measured = {}
            for size in options.sizes:
                measured[size] = measure(size, Path(made))
                print(f"  {size} pairs: {measured[size]}", flush=True)
        text = table(measured)
        print(text)
        if options.write:
            title = "# daDPO's data as they grow, written by `python -m benchmarks.dadpo_growth --write`\n\n"
            Path(__file__).with_suffix(".md").write_text(title + text)
            draw(measured, Path(__file__).with_suffix(".svg"))
