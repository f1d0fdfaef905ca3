"""`trainer=fsdp2` by the command line: stages in two processes on a CPU, and what is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import train
from callbacks.run.checkpoints import newest_checkpoint
from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import TINY

FSDP2 = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2"]
STAGES = ["teacher", "teacher_responses", "dsft", "pairs", "scores", "dadpo"]


def run(folder, *overrides):
    done = subprocess.run(
        [sys.executable, "train.py", "experiment=dadpo_quickstart", *TINY, f"hydra.run.dir={folder}/out", *overrides],
        cwd=Path(train.__file__).parent,
        env=os.environ | {"SMOOTHTALK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out" / "metrics.json").read_text()), done.stderr


@pytest.mark.slow
def test_a_run_in_shards_is_gone_on_with_in_one_process(tmp_path):
    metrics, said = run(tmp_path, *FSDP2, f"stages=[{','.join(STAGES)}]", "batch_size=4")
    assert said.count("[6/6] dadpo: done") == 1
    assert metrics["scores/computed"] == 4 * metrics["scores/pairs"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out/dadpo/model")
    curve = [json.loads(line) for line in (tmp_path / "out/dadpo/curve.jsonl").open()]
    saved = newest_checkpoint((tmp_path / "out/dadpo/checkpoints").resolve())
    assert saved is not None
    assert saved.is_dir()
    alone, _ = run(tmp_path, "stages=[dadpo]", "batch_size=8", f"stage.dadpo.resume={saved.parent}")
    again = [json.loads(line) for line in (tmp_path / "out/dadpo/curve.jsonl").open()]
    steps = int(saved.stem.partition("=")[2])
    assert {line["step"] for line in again} <= set(range(steps, 99))
    assert again[-1]["dadpo/val/loss"] == pytest.approx(curve[-1]["dadpo/val/loss"], abs=1e-5)
    assert alone["dadpo/train/loss"] == pytest.approx(metrics["dadpo/train/loss"], abs=1e-5)


def test_one_device_has_nothing_to_share(command):
    one_line(
        command("experiment=dadpo_quickstart", *TINY, "trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=1"),
        "one device",
        "trainer.devices=2",
    )


@pytest.mark.parametrize(
    ("experiment", "override", "parts"),
    [
        (
            "dadpo_quickstart",
            "student.model_type=openai-gpt",
            ("OpenAIGPTLMHeadModel cannot be sharded", "trainer=ddp"),
        ),
        ("dadpo_quickstart", "trainer.precision=16-mixed", ("precision 16-mixed", "32-true or bf16-mixed")),
        ("rast_quickstart", "seed=1", ("optimise by hand", "trainer=ddp")),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_any_stage(command, tmp_path, experiment, override, parts):
    one_line(command(f"experiment={experiment}", *FSDP2, override), *parts)
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_that_is_none_is_named(command, tmp_path, model_folder):
    missing = tmp_path / "none"
    pair = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair | {"prompt": f"{i} + 2 ="}) + "\n" for i in range(8)))
    models = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}", f"data={data}"]
    stage = ["trainer=cpu", "trainer.precision=32-true", "mode=live", "stages=[dadpo]", f"stage.dadpo.resume={missing}"]
    one_line(command("experiment=dadpo_qwen", *models, *stage), "no checkpoint can be read", str(missing))
