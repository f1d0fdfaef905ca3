"""What ``compile=true`` makes of a packed training step on this machine: seconds at first, and a step's after that.

``python -m benchmarks.dadpo_compiled`` prints the rows of the table in ``benchmarks/dadpo_compiled.md``. One thread
and its processor time, compilers included; policies with layers as they are and compiled take turns on the same
batches, forward and backward pass; a step's time is the median. The losses are checked to agree to 1e-4.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import torch

from benchmarks.dadpo_sides import SIZES, Bench
from lightning_modules import DaDPOModule

TURNS, BATCHES = 2, 2


def now() -> float:
    """Seconds of processor time, the compilers' too."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def step(module: DaDPOModule, batch: Any) -> tuple[float, float]:
    """Seconds of forward and backward pass, and the loss."""
    start = now()
    module.zero_grad()
    loss = torch.cat(module.policy_logps(batch)).square().mean()
    loss.backward()
    return now() - start, loss.item()


def measure(name: str, folder: Path) -> str:
    """A row of the table."""
    bench = Bench(SIZES[name], folder, 1)
    data = bench.data("auto", scored=False)
    data.setup("fit")
    batches = list(data.train_dataloader())[:BATCHES]
    sides = [DaDPOModule(bench.folders["student"], bench.tokenizer, compile=compile) for compile in (False, True)]
    for module in sides:
        module.configure_model()
    first = [step(module, batches[0])[0] for module in sides]
    seconds: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for batch in batches:
            found = [step(module, batch) for module in sides]
            assert abs(found[0][1] / found[1][1] - 1) < 1e-4, found
            for kept, (took, _) in zip(seconds, found, strict=True):
                kept.append(took)
    plain, compiled = (statistics.median(kept) for kept in seconds)
    return f"| {name} | {plain:.2f} | {compiled:.2f} | {plain / compiled:.2f} | {first[1] - first[0]:.0f} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in sys.argv[1:] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, Path(folder)), flush=True)
