"""`trainer=ddp` with two processes on a CPU: the same stages, one voice, every share done once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from tests.conf.tiny import TINY

DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.slow
def test_every_stage_runs_in_two_processes(tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", "experiment=dadpo_quickstart", *TINY, *DDP, f"hydra.run.dir={tmp_path}/out"],
        cwd=Path(train.__file__).parent,
        env=os.environ | {"SMOOTHTALK_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("preference rate") == 1
    assert done.stderr.count("[6/13] dadpo: done") == 1
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scores/computed"] == 4 * metrics["scores/pairs"]
    answered = [json.loads(line)["id"] for line in (tmp_path / "out/answers/responses/dadpo.jsonl").open()]
    assert len(answered) == len(set(answered)) == 8
    assert "student/dadpo/kl_to_teacher" in metrics
