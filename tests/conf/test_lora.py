"""The quickstart on adapters, tiny: LoRA in float32 and with a bfloat16 base, both exports, and what is refused."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import train
from tests.conf.tiny import CONF, TINY, TINY_RAST

LORA = ["lora=all_linear", "lora.rank=4", "lr=3e-3"]
BF16 = ["dtype=bfloat16", "trainer.precision=bf16-mixed"]
BEFORE = "stages=[teacher,teacher_responses,dsft,pairs,scores]"
STUDENTS = ("dadpo", "ddpo", "sft_chosen")


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """What comes before the adapters, once; gives a function that runs stages in the same folders."""
    folder = tmp_path_factory.mktemp("lora")

    def run(*overrides, lora=LORA):
        paths = [f"paths.output_dir={folder}/out", f"paths.cache_dir={folder}/cache", "name=test"]
        with initialize_config_dir(CONF, version_base="1.3"):
            config = compose("train", overrides=["experiment=dadpo_quickstart", *TINY, *lora, *paths, *overrides])
        return train.run(config)

    run(BEFORE)
    return folder / "out", run


def checkpoint(folder, stage):
    (path,) = (folder / stage / "checkpoints").glob("*.ckpt")
    return torch.load(path, weights_only=True), path


def test_students_of_adapters_are_plain_folders(lora):
    folder, run = lora
    metrics = run("stages=[dadpo,ddpo,sft_chosen,answers,evaluate]")
    start = AutoModelForCausalLM.from_pretrained(folder / "dsft" / "model")
    for student in STUDENTS:
        assert 0 <= metrics[f"student/{student}/win_rate"] <= 1
        model = AutoModelForCausalLM.from_pretrained(folder / student / "model")
        changed = {
            name for (name, p), q in zip(model.named_parameters(), start.parameters(), strict=True) if (p != q).any()
        }
        assert changed == {name for name, p in model.named_parameters() if name.endswith("proj.weight")}
        kept, path = checkpoint(folder, student)
        assert all("lora_" in name for name in kept["state_dict"])
        assert path.stat().st_size < (folder / student / "model" / "model.safetensors").stat().st_size
    full, _ = checkpoint(folder, "dsft")  # made from nothing, it has no adapter
    assert not any("lora_" in name for name in full["state_dict"])


@pytest.mark.slow
def test_live_mode_has_no_copy_and_says_the_same(lora):
    _, run = lora
    cached, live = run("stages=[dadpo]"), run("stages=[dadpo]", "mode=live")
    for key in ("loss", "margin", "target_margin", "ref_reward_margin"):
        assert live[f"dadpo/val/{key}"] == pytest.approx(cached[f"dadpo/val/{key}"], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_adapters_are_exported_and_evaluated_as_models(lora):
    folder, run = lora
    merged = run("stages=[dadpo,answers,evaluate]", "students={dadpo:${paths.output_dir}/dadpo/model}")
    weights = AutoModelForCausalLM.from_pretrained(folder / "dadpo" / "model").state_dict()
    apart = run(
        "stages=[dadpo,answers,evaluate]", "students={dadpo:${paths.output_dir}/dadpo/model}", "export_as=adapter"
    )
    model = folder / "dadpo" / "model"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in model.iterdir()}
    assert not (model / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(folder / "dsft" / "model")
    theirs = PeftModel.from_pretrained(base, model).merge_and_unload()
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(weight, weights[name])
    for key in ("win_rate", "kl_to_teacher"):
        assert apart[f"student/dadpo/{key}"] == pytest.approx(merged[f"student/dadpo/{key}"], rel=1e-4)


@pytest.mark.slow
def test_in_bfloat16_the_adapter_stays_wide(lora):
    folder, run = lora
    metrics = run("stages=[scores,dadpo]", "policy_dtype=bfloat16", *BF16)
    assert metrics["dadpo/val/loss"] > 0
    kept, _ = checkpoint(folder, "dadpo")
    assert {p.dtype for p in kept["state_dict"].values()} == {torch.float32}
    exported = load_file(folder / "dadpo" / "model" / "model.safetensors")
    assert {p.dtype for p in exported.values()} == {torch.bfloat16}


@pytest.mark.slow
def test_all_weights_in_mixed_bfloat16(lora):
    folder, run = lora
    metrics = run("stages=[scores,dadpo]", *BF16, lora=[])  # clips gradients, with the fused optimizer
    assert metrics["dadpo/val/loss"] > 0
    kept, _ = checkpoint(folder, "dadpo")
    assert {p.dtype for p in kept["state_dict"].values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_on_a_quantized_base(kind, lora):
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    folder, run = lora
    full = run("stages=[dadpo]")
    metrics = run("stages=[dadpo]", f"quantization={kind}")
    assert metrics["dadpo/val/chosen_logps"] == pytest.approx(full["dadpo/val/chosen_logps"], rel=0.05)
    assert metrics["dadpo/val/chosen_logps"] != full["dadpo/val/chosen_logps"]
    kept, _ = checkpoint(folder, "dadpo")
    assert all("lora_" in name for name in kept["state_dict"])
    exported = AutoModelForCausalLM.from_pretrained(folder / "dadpo" / "model")
    assert exported.dtype == torch.float32
    live = run("stages=[dadpo]", f"quantization={kind}", "mode=live")
    assert live["dadpo/val/loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw8bit", "adafactor"])
def test_other_optimizers(kind, lora):
    if kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="adamw8bit is bitsandbytes'")
    folder, run = lora
    assert run("stages=[dadpo]", f"optimizer={kind}", lora=[])["dadpo/val/loss"] > 0
    kept, _ = checkpoint(folder, "dadpo")
    names = {name for state in kept["optimizer_states"][0]["state"].values() for name in state}
    assert ("row_var" if kind == "adafactor" else "__bnb_optimizer_quant_state__") in names


def test_question_generators_of_adapters(tmp_path):
    def run(*overrides):
        paths = [f"paths.output_dir={tmp_path}/out", f"paths.cache_dir={tmp_path}/cache", "name=test"]
        with initialize_config_dir(CONF, version_base="1.3"):
            train.run(compose("train", overrides=["experiment=rast_quickstart", *TINY_RAST, *paths, *overrides]))

    run("stages=[vanilla]")
    start = tmp_path / "out" / "vanilla" / "model"
    run("stages=[style]", f"style_start={start}", "lora=all_linear")
    kept, _ = checkpoint(tmp_path / "out", "style")
    assert all("lora_" in name for name in kept["state_dict"])
    before, after = (
        AutoModelForSeq2SeqLM.from_pretrained(path).state_dict() for path in (start, tmp_path / "out/style/model")
    )
    assert {name for name in before if not torch.equal(before[name], after[name])}
    assert torch.equal(before["shared.weight"], after["shared.weight"])


WRONG = {
    "lora.rank=0": "lora.rank is 0",
    "lora.target_modules=[wq]": "no linear layers wq",
    "+lora.ranks=4": "unknown keys ranks",
    "export_as=gguf": "unknown export_as 'gguf'",
    "stage.dsft.module.lora=${lora}": "a new model has nothing to adapt",
    "quantization=int4": "unknown quantization 'int4'",
    "optimizer=adam": "unknown optimizer 'adam'",
    "lora=none": "a base in nf4 cannot be trained",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_settings_end_before_any_stage(override, command, tmp_path):
    given = ["quantization=nf4"] if override == "lora=none" else ["lora=all_linear"]
    code, err = command("experiment=dadpo_quickstart", *given, *TINY, override, f"hydra.run.dir={tmp_path}/out")
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert WRONG[override] in line
    assert not (tmp_path / "out" / "teacher").exists()


def test_an_adapter_is_not_exported_without_one(command, tmp_path):
    code, err = command("experiment=dadpo_quickstart", *TINY, "export_as=adapter", f"hydra.run.dir={tmp_path}/out")
    assert code == 2
    assert "there is no adapter to export" in err
