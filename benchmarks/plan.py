"""How well ``plan=true`` foretells the memory that a CPU run takes: predicted against measured, stage by stage.

``python -m benchmarks.plan`` prints a table; ``--write`` also puts it into ``benchmarks/plan.md``. Each stage runs in a
process of its own, one thread, after the same stage with a model 16 wide, so that libraries are loaded; measured is by
how much its resident memory peaks above where it then stood, and the whole of it (Linux only). Twice: with glibc's
allocator as it is, and with ``MALLOC_MMAP_THRESHOLD_`` fixed, so that glibc gives large tensors back as they are freed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

import train
from callbacks.run import plan_of, run_stage
from callbacks.run.estimate.fitting import SLACK
from callbacks.run.estimate.run import FIXED, Rates
from callbacks.run.estimate.settings import Settings
from datamodules.almanac import almanac_tokenizer
from lightning_modules.exporting import export
from lightning_modules.language_model import build_language_model

CONF = str(Path(train.__file__).parent / "conf")
MIB = 2**20
WARM = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES: dict[str, tuple[dict[str, int], dict[str, int], int, int]] = {
    # student, teacher, tokens of the vocabulary, words of a text at most
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
        1024,
        16,
    ),
    "medium": (
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
        {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 10, "num_attention_heads": 10},
        8192,
        60,
    ),
    "fitted": (
        {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6},
        {"hidden_size": 448, "intermediate_size": 1216, "num_hidden_layers": 8, "num_attention_heads": 7},
        6144,
        42,
    ),
}
FITTED = [
    ("fitted", "teacher_responses,dsft", ("batch_size=6",)),
    ("fitted", "scores,dadpo", ("batch_size=6",)),
    ("fitted", "scores,dadpo", ("batch_size=12",)),
    ("fitted", "scores,dadpo", ("batch_size=12", "packing=off")),
    ("fitted", "scores,dadpo", ("batch_size=12", "mode=live")),
    ("fitted", "scores,dadpo", ("batch_size=12", "gradient_checkpointing=true")),
]
"""What the allocator's share is chosen from: none of ``CASES``, which it is then held against."""
CASES = [
    ("tiny", "scores", ()),
    ("tiny", "teacher_responses,dsft", ("batch_size=32",)),
    ("tiny", "scores,dadpo", ("batch_size=32",)),
    ("tiny", "scores,dadpo", ("batch_size=32", "packing=off")),
    ("tiny", "scores,dadpo", ("batch_size=32", "mode=live")),
    ("medium", "scores", ()),
    ("medium", "teacher_responses,dsft", ("batch_size=8",)),
    ("medium", "scores", ("packing=off",)),
    ("medium", "scores,dadpo", ("batch_size=8",)),
    ("medium", "scores,dadpo", ("batch_size=8", "packing=off")),
    ("medium", "scores,dadpo", ("batch_size=8", "token_budget=300")),
    ("medium", "scores,dadpo", ("batch_size=8", "mode=live")),
    ("medium", "scores,dadpo", ("batch_size=8", "gradient_checkpointing=true")),
    ("medium", "scores,dadpo", ("batch_size=8", "trainer.precision=bf16-mixed")),
]
HEAP_CASES = [
    ("medium", "scores,dadpo", ("batch_size=8",)),
    ("medium", "scores,dadpo", ("batch_size=8", "packing=off")),
    ("medium", "scores,dadpo", ("batch_size=8", "gradient_checkpointing=true")),
]
"""Those that are also measured with the heap as it is."""
WORDS = ["what", "city", "river", "old", "who", "built", "the", "bridge", "near", "garden", "tower", "when", "was"]
QUICK = [
    "experiment=dadpo_qwen", "name=plan", "trainer=cpu", "trainer.precision=32-true", "dtype=float32", "threads=1",
    "trainer.accumulate_grad_batches=1", "gradient_checkpointing=false", "max_length=256", "checkpoint_every=2",
    "estimate.process_gib=0",
    "+trainer.enable_progress_bar=false", "stage.dadpo.module.optimizer.fused=false",  # bf16-mixed clips gradients
]  # fmt: skip


class Result(NamedTuple):
    """One stage."""

    case: tuple[str, str, tuple[str, ...]]
    predicted: float
    """Bytes of the stage alone."""
    measured: float
    """The same."""
    whole: float
    """Measured, the process with its libraries included."""
    passing: float
    """Bytes that the allocator's share is of."""


def make_inputs(root: Path, size: str) -> None:
    """Student, teacher, data and their small stand-ins."""
    student, teacher, tokens, words = SIZES[size]
    tokenizer = almanac_tokenizer()
    tokenizer.add_tokens([f"<word{i}>" for i in range(tokens - len(tokenizer))])
    torch.manual_seed(0)
    for name, fields in (("student", student), ("teacher", teacher), ("warm", WARM)):
        model = {"model_type": "qwen2", "tie_word_embeddings": True, "max_position_embeddings": 512, **fields}
        model["num_key_value_heads"] = max(1, fields["num_attention_heads"] // 4)
        save(model, tokenizer, root / name)
    rows = 96 if size == "tiny" else 24
    write_pairs(root / "data.jsonl", rows, words)
    write_pairs(root / "warm.jsonl", 4, words)


def save(fields: dict[str, Any], tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    export(build_language_model(fields, tokenizer), tokenizer, folder)


def write_pairs(path: Path, rows: int, words: int) -> None:
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(words // 3, words)))

    lines = [
        {"id": f"r{i}", "prompt": f"{i} {text()}", "chosen": text(), "rejected": f"{text()} x"} for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config_of(root: Path, size: str, stages: str, extra: list[str]) -> DictConfig:
    """The experiment on the inputs, or on their stand-ins (``size`` warm)."""
    models = ("warm", "warm", "warm.jsonl") if size == "warm" else ("teacher", "student", "data.jsonl")
    given = [f"{key}={root / name}" for key, name in zip(("teacher", "student", "data"), models, strict=True)]
    cache = f"{root}/cache{'-off' if 'packing=off' in extra else ''}"  # where no scores are known yet
    paths = [f"paths.output_dir={root}/out-{size}", f"paths.cache_dir={cache}"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", overrides=[*QUICK, *paths, *given, f"stages=[{stages}]", *extra])


def status(field: str) -> float:
    """A line of the process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def work(root: Path, size: str, stages: str, extra: list[str], prepare: bool) -> None:
    """In a process of its own: run all stages but the last, then the last one between two looks at the memory."""
    torch.set_num_threads(1)
    warm, config = (config_of(root, which, stages, extra) for which in ("warm", size))
    for name in warm.stages:
        run_stage(warm, name, {})
    *before, last = config.stages
    for name in before:
        run_stage(config, name, {})
    if prepare:
        return
    predicted, none, all_of_it = (
        next(stage for stage in plan_of(told, rates=Rates(None, None)).stages if stage.name == last).peak
        for told in (
            config,
            *(config_of(root, size, stages, [*extra, f"estimate.allocator_slack={s}"]) for s in (0, 1)),
        )
    )
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = status("VmRSS")
    run_stage(config, last, {})
    peak = status("VmHWM")
    print(json.dumps({"predicted": predicted, "measured": peak - start, "whole": peak, "passing": all_of_it - none}))


def measure(root: Path, case: tuple[str, str, tuple[str, ...]], fixed: bool) -> Result:
    size, stages, extra = case
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({FIXED: "65536"} if fixed else {})}
    environment.pop("" if fixed else FIXED, None)
    outcome = ""
    for prepare in ("--prepare", "--measure"):
        command = [sys.executable, "-m", "benchmarks.plan", prepare, f"{root}/{size}", size, stages, *extra]
        outcome = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    numbers = json.loads(outcome.splitlines()[-1])
    print(json.dumps([*case, fixed, numbers]), file=sys.stderr, flush=True)
    return Result(case, **numbers)


def known_results(path: Path | None) -> dict[str, Result]:
    """Results of an interrupted run, from what it wrote to standard error."""
    found = {}
    for line in path.read_text().splitlines() if path else []:
        if line.startswith("["):
            size, stages, extra, fixed, numbers = json.loads(line)
            case = (size, stages, tuple(extra))
            found[repr((case, fixed))] = Result(case, **numbers)
    return found


def table(title: str, results: list[Result]) -> list[str]:
    heads = "models | stage | settings | predicted, MiB | measured, MiB | ratio"
    heads += " | predicted with the process | measured | ratio"
    lines = ["", f"## {title}", "", f"| {heads} |", "|---|---|---|---:|---:|---:|---:|---:|---:|"]
    for (size, stages, extra), predicted, measured, whole, _ in results:
        planned = predicted + Settings().process_gib * 2**30
        numbers = f"{predicted / MIB:.0f} | {measured / MIB:.0f} | {predicted / measured:.2f}"
        numbers += f" | {planned / MIB:.0f} | {whole / MIB:.0f} | {planned / whole:.2f}"
        lines.append(f"| {size} | {stages.rpartition(',')[2]} | {', '.join(extra) or '–'} | {numbers} |")
    return lines


def fit() -> None:
    """Print by how much of what passes through its hands glibc's heap outgrew the plan without holes."""
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder) / "fitted", "fitted")
        for case in FITTED:
            size, stages, extra = case
            result = measure(Path(folder), (size, stages, (*extra, "estimate.allocator_slack=0")), False)
            print(*case, f"share {(result.measured - result.predicted) / result.passing:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="also write benchmarks/plan.md")
    parser.add_argument("--known", type=Path, help="standard error of an interrupted run: what it measured is kept")
    parser.add_argument("--fit", action="store_true", help="the share of glibc's holes in other runs than the table's")
    options = parser.parse_args()
    if options.fit:
        fit()
        return
    known = known_results(options.known)
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            "Peak of resident memory above a process that has its libraries loaded; Qwen2 models, float32 where",
            "nothing else is said; pairs in packed rows but with packing=off. Tiny models drown in the 10 to 20 MiB",
            "that a stage takes beside tensors. The first table's arithmetic has no constant chosen from a run. The",
            f"share that glibc's heap adds as it is, {SLACK['CPU']} of the activations, is the mean of six runs of",
            "other models and batches (`--fit`), where it was 0.27 to 0.69: the second table's ratios show it.",
            "On a GPU nothing of this has been measured: its formulae differ in the chunk of logits, the step's",
            "temporaries and the allocator's share. Nor has the utilisation of 0.5.",
            f"torch {torch.__version__}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}.",
        ]
        for title, fixed in ((f"`{FIXED}` fixed: the arithmetic alone", True), ("glibc as it is", False)):
            root = Path(folder) / str(fixed)  # with a cache of its own
            for size in {size for size, *_ in (CASES if fixed else HEAP_CASES)}:
                make_inputs(root / size, size)
            cases = [case for case in CASES if fixed or case in HEAP_CASES]
            lines += table(title, [known.get(repr((case, fixed))) or measure(root, case, fixed) for case in cases])
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        title = "# Planned and measured memory, written by `python -m benchmarks.plan --write`\n\n"
        Path(__file__).with_suffix(".md").write_text(title + text)


if __name__ == "__main__":
    if sys.argv[1:2] in (["--prepare"], ["--measure"]):
        work(Path(sys.argv[2]), *sys.argv[3:5], sys.argv[5:], sys.argv[1] == "--prepare")
    else:
        main()
