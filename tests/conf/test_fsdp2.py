"""`trainer=fsdp2` by the command line: stages in two processes on a CPU, and what is refused in one line."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

from tests.conf.command_apart import quickstart
from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import TINY

FSDP2 = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2"]
STAGES = ["teacher", "teacher_responses", "dsft", "pairs", "scores", "dadpo"]


def run(folder, *overrides):
    err = quickstart(folder, "out", *overrides)
    return json.loads((folder / "out" / "metrics.json").read_text()), err


def read_curve(folder):
    lines = map(json.loads, (folder / "out/dadpo/curve.jsonl").open())
    return {line["step"]: line for line in lines}


@pytest.mark.slow
def test_a_run_in_shards_is_gone_on_with_in_one_process(tmp_path):
    keep_all = "stage.dadpo.callbacks.checkpoint.save_top_k=-1"
    metrics, said = run(tmp_path, *FSDP2, f"stages=[{','.join(STAGES)}]", "batch_size=4", keep_all)
    assert said.count("[6/6] dadpo: done") == 1
    assert metrics["scores/computed"] == 4 * metrics["scores/pairs"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out/dadpo/model")
    curve = read_curve(tmp_path)
    shutil.copytree(tmp_path / "out/dadpo/checkpoints/step=4.ckpt", tmp_path / "saved/step=4.ckpt")
    run(tmp_path, "stages=[dadpo]", "batch_size=8", f"stage.dadpo.resume={tmp_path}/saved")
    again = read_curve(tmp_path)
    assert sorted(again) == [step for step in sorted(curve) if step > 4] != []
    for step, line in again.items():
        for key in ("dadpo/train/loss", "dadpo/train/accuracy", "dadpo/train/lr"):
            assert line[key] == pytest.approx(curve[step][key], abs=1e-5), (step, key)


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


def test_the_control_is_checked_like_the_others(command, tmp_path):
    settings = ("stages=[teacher,sft_chosen]", "student.model_type=openai-gpt")
    one_line(command("experiment=dadpo_quickstart", *FSDP2, *settings), "cannot be sharded", "trainer=ddp")
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_that_is_none_is_named(command, tmp_path, model_folder):
    missing = tmp_path / "none"
    pair = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair | {"prompt": f"{i} + 2 ="}) + "\n" for i in range(8)))
    models = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}", f"data={data}"]
    stage = ["trainer=cpu", "trainer.precision=32-true", "mode=live", "stages=[dadpo]", f"stage.dadpo.resume={missing}"]
    one_line(command("experiment=dadpo_qwen", *models, *stage), "no checkpoint can be read", str(missing))
