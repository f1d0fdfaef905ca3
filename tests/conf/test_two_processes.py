"""`trainer=ddp` with two processes on a CPU: the same stages, one voice, every share done once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import train
from tests.conf.command_apart import LIMIT_S, start
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


@pytest.mark.slow
def test_what_the_first_process_cannot_load_ends_all_of_them_in_a_line_each(model_folder, tmp_path):
    """Sharded, the others wait for its weights."""
    whole, broken = model_folder(), tmp_path / "broken"
    shutil.copytree(whole, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Who is {i}?", "chosen": "Ada Holm.", "rejected": "Nobody."} for i in range(16)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"data={pairs}", f"eval_data={pairs}", f"teacher={whole}", f"student={broken}"]
    sharded = ["trainer=fsdp2", *DDP[1:], "trainer.precision=32-true", "policy_dtype=float32", "stages=[sft_chosen]"]
    process = start(tmp_path, "run", "experiment=dadpo_qwen", *data, *sharded, "logger=csv")
    process.join(LIMIT_S)
    process.kill()  # one that hangs
    said = (tmp_path / "run.err").read_text()
    assert process.exitcode == 2, said
    assert "error: 1 weights are missing, model.norm.weight first" in said
    assert "error: the first process could not build the model" in said
    assert "Traceback" not in said
