"""Kill −9 in each stage, start again: the numbers are those of an undisturbed run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from tests.conf.tiny import TINY

ROOT = Path(train.__file__).parent
FIRST = ["teacher", "teacher_responses", "dsft", "pairs", "scores"]
STAGES = [*FIRST, "dadpo", "ddpo", "sft_chosen", "answers", "evaluate", "capacity", "serve"]
VOLATILE = {"scores/computed", "scores/reused", "teacher_responses/sampled", "pairs/sampled", "answers/sampled"}
"""What tells how much of the work was left to do."""
TIMED = re.compile(r"/capacity_|-fifo/|/peak_")
"""What is read off the clock, and so is new with each run."""
BUSIER = ["teacher_steps=12", "checkpoint_every=3", "sample_batch_size=4", "dsft_batch_size=4", "batch_size=4"]


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", "experiment=dadpo_quickstart", *TINY, *BUSIER, f"hydra.run.dir={folder}/out"],
        cwd=ROOT,
        env=os.environ | {"SMOOTHTALK_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def final_metrics(folder: Path) -> dict:
    process = start(folder)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    return {key: "timed" if TIMED.search(key) else value for key, value in metrics.items() if key not in VOLATILE}


def half_done(folder: Path, stage: str) -> bool:
    """Whether a stage is under way: it has a folder, its record is not there, and something of it is on disk."""
    link = folder / "out" / stage
    if not link.exists() or (link / "stage.json").exists():
        return False
    made = [*link.rglob("*.ckpt"), *link.rglob("responses/*.jsonl"), *link.rglob("logs/*.jsonl")]
    scores = stage == "scores" and any((folder / "cache" / "scores").glob("*.sqlite"))
    return bool(made) or scores or stage in ("evaluate", "capacity")


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_numbers(tmp_path):
    undisturbed = final_metrics(tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    caught = []
    for stage in STAGES:
        process = start(killed)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if half_done(killed, stage):
                process.send_signal(signal.SIGKILL)
                caught.append(stage)
                break
            time.sleep(0.002)
        process.communicate()
    assert len(caught) > len(STAGES) / 2, caught  # a short one may end between two looks
    assert final_metrics(killed) == undisturbed
