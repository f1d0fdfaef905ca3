"""Kill −9 in each stage, start again: the numbers are those of an undisturbed run."""

import json
import re
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.conf.command_apart import run, start
from tests.conf.tiny import TINY, TINY_RAST

FIRST = ["teacher", "teacher_responses", "dsft", "pairs", "scores"]
VOLATILE = {"scores/computed", "scores/reused", "teacher_responses/sampled", "pairs/sampled", "answers/sampled"}
VOLATILE |= {"generate/questions"}
"""What tells how much of the work was left to do."""
TIMED = re.compile(r"/capacity_|-fifo/|/peak_")
"""What is read off the clock, and so is new with each run."""
BUSIER = ["teacher_steps=12", "checkpoint_every=3", "sample_batch_size=4", "dsft_batch_size=4", "batch_size=4"]
BUSIER_RAST = ["vanilla_steps=12", "style_steps=12", "qa_steps=12", "judge_qa_steps=12", "rl_steps=12", "batch_size=4"]
BUSIER_RAST += ["checkpoint_every=3", "rl_val_every=5", "world.test.count=24"]
EXPERIMENTS = {
    "dadpo_quickstart": (
        [*FIRST, "dadpo", "ddpo", "sft_chosen", "answers", "evaluate", "capacity", "serve"],
        [*TINY, *BUSIER],
    ),
    "rast_quickstart": (
        ["vanilla", "style", "qa", "judge_qa", "rl", "generate", "evaluate"],
        [*TINY_RAST, *BUSIER_RAST],
    ),
}
"""Of each its stages and what makes it small."""


def begin(experiment: str, folder: Path) -> BaseProcess:
    return start(folder, "out", f"experiment={experiment}", *EXPERIMENTS[experiment][1])


def final_metrics(experiment: str, folder: Path) -> dict:
    run(folder, "out", f"experiment={experiment}", *EXPERIMENTS[experiment][1])
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    return {key: "timed" if TIMED.search(key) else value for key, value in metrics.items() if key not in VOLATILE}


def half_done(folder: Path, stage: str) -> bool:
    """Whether a stage is under way: it has a folder, its record is not there, and something of it is on disk."""
    link = folder / "out" / stage
    if not link.exists() or (link / "stage.json").exists():
        return False
    kinds = ("*.ckpt", "responses/*.jsonl", "questions/*.jsonl", "logs/*.jsonl")
    made = [path for kind in kinds for path in link.rglob(kind)]
    scores = stage == "scores" and any((folder / "cache" / "scores").glob("*.sqlite"))
    return bool(made) or scores or stage in ("evaluate", "capacity")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_killed_in_every_stage_it_ends_with_the_same_numbers(tmp_path, experiment):
    undisturbed = final_metrics(experiment, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    caught = []
    stages = EXPERIMENTS[experiment][0]
    for stage in stages:
        process = begin(experiment, killed)
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if half_done(killed, stage):
                process.kill()
                caught.append(stage)
                break
            time.sleep(0.002)
        process.join()
    assert len(caught) > len(stages) / 2, caught  # a short one may end between two looks
    assert final_metrics(experiment, killed) == undisturbed
