"""``plan=true`` from the command line: a table, ``plan.json``, and nothing else done."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from lightning_modules.optimizers import KINDS
from tests.conf.test_wrong_inputs import GOOD, GOOD2, one_line, pairs
from tests.conf.tiny import TINY

CPU = ["experiment=dadpo_qwen", "plan=true", "trainer=cpu", "plan_tflops=0.1", "estimate.gbps=10"]


@pytest.fixture
def planned(command, model_folder, tmp_path):
    """The plan of a run on two pairs, with folders that hold a config and a tokenizer but no weights."""

    def run(*overrides, rows=(GOOD, GOOD2)):
        folders = []
        for key, seed in (("teacher", 1), ("student", 2)):
            folder = tmp_path / key
            if not folder.exists():
                shutil.copytree(model_folder(seed=seed), folder)
                for weights in folder.glob("*.safetensors"):
                    weights.unlink()
            folders.append(f"{key}={folder}")
        data = pairs(tmp_path / "pairs.jsonl", *rows)
        code, err = command(*CPU, *folders, f"data={data}", "stages=[scores,dadpo]", *overrides)
        assert code == 0, err
        return json.loads((tmp_path / "outputs/dadpo_qwen/plan.json").read_text())

    return run


def test_nothing_is_loaded_trained_or_written_but_the_plan(planned, tmp_path):
    stages = planned()["stages"]
    assert set(stages) == {"scores", "dadpo"}
    assert {path.name for path in (tmp_path / "outputs/dadpo_qwen").glob("*.*")} - {".hydra", "train.log"} == {
        "plan.json",
        "config.yaml",
    }
    assert not (tmp_path / "cache").exists()


def test_what_it_says_is_the_data_s_and_the_models(planned, model_folder, tokenizer):
    found = planned("batch_size=2")
    dadpo, scores = found["stages"]["dadpo"], found["stages"]["scores"]
    weights = safetensors.torch.load_file(Path(model_folder(seed=2)) / "model.safetensors")
    count = sum(tensor.numel() for tensor in weights.values())
    assert dadpo["parameters"] == {"policy": count}
    assert scores["parameters"] == {"reference": count, "teacher": count}
    assert dadpo["moments"]["forward"]["optimizer"] == 2 * 4 * count
    assert dadpo["disk"] == (2 * 3 + 1) * 4 * count
    turns = [
        [row["prompt"], [*row["prompt"], *row["chosen"]], [*row["prompt"], *row["rejected"]]] for row in (GOOD, GOOD2)
    ]
    lengths = [
        [
            len(tokenizer.apply_chat_template(said, tokenize=True, add_generation_prompt=said is row[0])["input_ids"])
            for said in row
        ]
        for row in turns
    ]
    # each prompt once; but for the line break behind the end of a turn
    needed = sum(chosen - 1 + rejected - 1 - prompt for prompt, chosen, rejected in lengths)
    assert scores["cost"]["filled"] == scores["cost"]["tokens"] == 2 * needed
    alone = planned("batch_size=2", "packing=off")["stages"]["scores"]["cost"]["filled"]
    assert alone == 2 * sum(chosen - 1 + rejected - 1 for _, chosen, rejected in lengths)
    assert scores["hours"] == pytest.approx(
        scores["cost"]["flops"] / (0.1e12 * found["settings"]["utilisation"]) / 3600
    )
    assert found["rates"] == {"flops": 1e11, "bytes_read": 1e10}


def test_live_mode_adds_both_frozen_models(planned):
    cached, live = (planned(f"mode={mode}")["stages"]["dadpo"] for mode in ("cached", "live"))
    assert set(live["parameters"]) == {"policy", "reference", "teacher"}
    assert live["moments"]["forward"]["frozen weights"] == 2 * 2 * live["parameters"]["teacher"]  # bfloat16
    assert live["peak"] >= cached["peak"] + live["moments"]["forward"]["frozen weights"]
    assert live["cost"]["flops"] > 1.5 * cached["cost"]["flops"]


@pytest.mark.parametrize(("memory", "fits"), [(64, True), (0.531, False)])
def test_what_does_not_fit_is_said_with_a_setting_that_mends_it(planned, memory, fits, capsys):
    stages = planned(f"plan_memory_gib={memory}", "mode=live", "batch_size=64", rows=[_numbered(i) for i in range(64)])[
        "stages"
    ]
    assert stages["dadpo"]["fits"] is fits
    assert bool(stages["dadpo"]["mend"]) is not fits
    if not fits:
        assert "mode=cached" in stages["dadpo"]["mend"]


def _numbered(i):
    words = "one two three four five six seven eight nine ten " * 8
    return GOOD | {"prompt": [{"role": "user", "content": f"{i}: {words}"}]}


def test_the_mend_does_mend(planned):
    rows = [_numbered(i) for i in range(64)]
    tight = ["batch_size=64", "gradient_checkpointing=false", "plan_memory_gib=0.545"]
    found = planned(*tight, rows=rows)["stages"]["dadpo"]
    assert found["fits"] is False
    settings = [word for word in found["mend"].split() if word.startswith(("batch_size=", "gradient_checkpointing="))]
    assert settings
    assert planned(*tight, *settings, rows=rows)["stages"]["dadpo"]["fits"] is True


def test_the_mend_names_the_key_that_the_stage_listens_to(command, tmp_path):
    tight = ["plan_tflops=1", "estimate.gbps=1", "plan_memory_gib=0.5301", "estimate.allocator_slack=0.5"]
    assert command("experiment=dadpo_quickstart", "plan=true", *tight, *TINY)[0] == 0
    stages = json.loads((tmp_path / "outputs/dadpo_quickstart/plan.json").read_text())["stages"]
    for name, key in (("teacher", "teacher_batch_size"), ("dsft", "dsft_batch_size"), ("scores", "score_batch_size")):
        assert f" {key}=" in stages[name]["mend"], stages[name]["mend"]


def test_models_and_data_of_earlier_stages_are_foreseen(command, tmp_path):
    code, err = command("experiment=dadpo_quickstart", "plan=true", "plan_tflops=1", "estimate.gbps=1", *TINY)
    assert code == 0, err
    found = json.loads((tmp_path / "outputs/dadpo_quickstart/plan.json").read_text())
    assert found["not_planned"] == ["capacity", "serve", "score_load"]
    stages = found["stages"]
    assert stages["dadpo"]["parameters"] == stages["dsft"]["parameters"]
    assert stages["scores"]["parameters"]["teacher"] == stages["teacher"]["parameters"]["policy"]
    assert any("answers of 4 tokens, 8 at most" in said for said in stages["dadpo"]["assumed"])
    assert stages["teacher"]["cost"]["filled"] > 0


def test_a_run_can_follow_its_plan(command, tmp_path):
    assert command("experiment=dadpo_quickstart", "plan=true", "plan_tflops=1", "stages=[teacher]", *TINY)[0] == 0
    assert command("experiment=dadpo_quickstart", "stages=[teacher]", *TINY)[0] == 0
    assert (tmp_path / "outputs/dadpo_quickstart/metrics.json").is_file()


def test_an_experiment_without_models(command, tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    one_line(command("experiment=goodput_logs", "data=log.jsonl", "plan=true"), "nothing to plan", "plan=true")


def test_a_missing_file(command, model_folder):
    folders = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}"]
    one_line(command(*CPU, *folders, "data=nowhere.jsonl", "stages=[scores,dadpo]"), "no such file", "nowhere.jsonl")


def test_a_model_that_is_not_there(command, model_folder, tmp_path):
    data = pairs(tmp_path / "pairs.jsonl", GOOD, GOOD2)
    folders = [f"teacher={tmp_path}/none", f"student={model_folder(seed=2)}"]
    one_line(command(*CPU, *folders, f"data={data}", "stages=[scores,dadpo]"), f"{tmp_path}/none")


@pytest.mark.parametrize("wrong", ["plan_tflops=-1", "estimate.utilisation=0", "plan_memory_gib=0"])
def test_assumptions_that_cannot_be(command, model_folder, tmp_path, wrong):
    data = pairs(tmp_path / "pairs.jsonl", GOOD, GOOD2)
    folders = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}"]
    one_line(command(*CPU, *folders, f"data={data}", "stages=[scores,dadpo]", wrong), "no such assumptions")


def test_an_adapter_is_counted(planned):
    full, lora = (planned("policy_dtype=bfloat16", *more)["stages"]["dadpo"] for more in ([], ["lora=all_linear"]))
    assert set(lora["parameters"]) == {"policy", "its adapter"}
    adapter = lora["parameters"]["its adapter"]
    assert lora["moments"]["forward"]["optimizer"] == 2 * 4 * adapter
    assert lora["moments"]["forward"]["weights"] == full["moments"]["forward"]["weights"] + 4 * adapter
    assert lora["disk"] == 2 * 3 * 4 * adapter + full["moments"]["forward"]["weights"]
    alone = planned("policy_dtype=bfloat16", "lora=all_linear", "export_as=adapter")["stages"]["dadpo"]
    assert alone["disk"] == (2 * 3 + 1) * 4 * adapter
    narrow = planned("policy_dtype=bfloat16", "lora=all_linear", "quantization=nf4")["stages"]["dadpo"]
    assert narrow["moments"]["forward"]["weights"] < lora["moments"]["forward"]["weights"]


def test_optimizer_states_are_counted(planned):
    held = {k: planned(f"optimizer={k}")["stages"]["dadpo"]["moments"]["step"]["optimizer"] for k in KINDS}
    assert held["adamw8bit"] == pytest.approx(held["adamw"] / 4, rel=0.02)
    assert held["adafactor"] < held["adamw"] / 4


def test_live_mode_under_an_adapter_holds_no_reference(planned):
    cached, live = (planned("lora=all_linear", f"mode={mode}")["stages"]["dadpo"] for mode in ("cached", "live"))
    assert live["moments"]["forward"]["frozen weights"] == 2 * live["parameters"]["teacher"]
    assert live["cost"]["flops"] > 1.3 * cached["cost"]["flops"]
    of_its_own = planned("lora=all_linear", "mode=live", "stage.dadpo.module.reference=${teacher}")["stages"]["dadpo"]
    assert of_its_own["moments"]["forward"]["frozen weights"] > live["moments"]["forward"]["frozen weights"]


def test_an_adapter_is_offered_where_all_weights_do_not_fit(planned):
    small = ["batch_size=1"]
    peaks = [planned(*small, *more)["stages"]["dadpo"]["peak"] for more in ([], ["lora=all_linear"])]
    assert peaks[1] < peaks[0]
    found = planned(*small, f"plan_memory_gib={sum(peaks) / 2 / 2**30}")["stages"]["dadpo"]
    assert found["fits"] is False
    assert "lora=all_linear" in found["mend"]


GPUS = ["trainer.accelerator=gpu", "plan_memory_gib=1"]


def test_what_waits_in_the_host_s_memory(planned):
    plain, moved = (planned(*GPUS, *more)["stages"]["dadpo"] for more in ([], ["activation_offload=true"]))
    assert plain["host"] == 0 < moved["host"]
    assert plain["moments"]["forward"].keys() == moved["moments"]["forward"].keys()


def test_shards_of_a_policy(planned, monkeypatch):
    monkeypatch.setattr("lightning_modules.compiling.check_compiler", lambda accelerator: None)  # planned for elsewhere
    one = planned(*GPUS)["stages"]["dadpo"]
    eight = planned("trainer=fsdp2", "trainer.devices=8", *GPUS)["stages"]["dadpo"]
    for held in ("weights", "optimizer", "gradients"):
        assert 8 * eight["moments"]["forward"][held] == one["moments"]["forward"][held]
    assert eight["disk"] == one["disk"]
    unknown = planned("trainer=fsdp2", "compile=true", *GPUS)["stages"]["dadpo"]
    for assumed in ("one shard", "layers that are not compiled"):
        assert any(assumed in said for said in unknown["assumed"])
        assert not any(assumed in said for said in one["assumed"] + eight["assumed"])
