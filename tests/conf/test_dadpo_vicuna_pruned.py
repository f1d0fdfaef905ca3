"""`experiment=dadpo_vicuna_pruned`, tiny: from a teacher folder to a distilled pruned student."""

import json
from itertools import islice

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks.run.plan import stage_config
from datamodules.almanac import dialogues
from tests.conf.tiny import PARTS, SERVED

TEACHER = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
}
MORE = {
    "llama": ["stages=[teacher_responses,prune,dsft,pairs,scores,dadpo,answers,evaluate]"],
    "qwen2": [
        "prune_widths=[heads,intermediate,hidden]"
    ],  # served too, with heads no longer hidden size ÷ their number
}
QUICK = [
    "trainer=cpu",
    "+trainer.enable_progress_bar=false",
    "trainer.precision=32-true",
    "trainer.accumulate_grad_batches=1",
    "dtype=float32",
    "threads=1",
    "judge=rule",
    "mark={_target_: hydra.utils.get_method, path: datamodules.almanac.mark}",
    "prune_multiple_of=1",
    "+stage.teacher_responses.callbacks.writer.keep_unfinished=true",
    "+stage.pairs.callbacks.writer.keep_unfinished=true",
    *SERVED,
    *(f"sampling.{part}.max_new_tokens=4" for part in PARTS),
]


@pytest.fixture
def prompts(tmp_path):
    """Rows of the almanac that bring no response, and a few more that are held out."""
    for name, split, count in (("data", "train", 16), ("held_out", "test", 4)):
        rows = islice(dialogues(0, split, count), count)
        lines = (json.dumps({k: v for k, v in row.items() if k != "completion"}) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return [f"data={tmp_path}/data.jsonl", f"eval_data={tmp_path}/held_out.jsonl"]


@pytest.mark.parametrize("kind", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_it_runs_from_the_teacher_to_the_distilled_student(kind, command, model_folder, prompts, tmp_path):
    teacher = model_folder(**{**TEACHER, **KINDS[kind], "initializer_range": 0.2})
    code, err = command(
        "experiment=dadpo_vicuna_pruned",
        f"teacher={teacher}",
        *prompts,
        *QUICK,
        "prune_ratio=0.15",
        "calibration_rows=6",
        *MORE[kind],
    )
    assert code == 0, err
    folder = tmp_path / "outputs" / "dadpo_vicuna_pruned"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["prune/ratio"] == pytest.approx(0.15, abs=0.01)
    assert (metrics["prune/hidden_size"] < 32) == (kind == "qwen2")
    assert metrics["prune/calibration_batches"] == 6
    assert metrics["prune/loss_before"] > 0
    sizes = [
        sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(path).parameters())
        for path in (teacher, folder / "prune" / "model", folder / "dsft" / "model", folder / "dadpo" / "model")
    ]
    assert sizes == [metrics["prune/parameters_before"], *[metrics["prune/parameters"]] * 3]
    vocabulary = AutoTokenizer.from_pretrained(folder / "prune" / "model").get_vocab()
    assert vocabulary == AutoTokenizer.from_pretrained(teacher).get_vocab()
    assert "student/dadpo/preference_rate" in metrics
    assert not list((folder / "prune").glob("**/*.ckpt"))


def test_short_keys_reach_the_stage(composed):
    keys = ["prune_ratio=0.5", "importance=random", "calibration_rows=7", "calibration_data=rows.jsonl", "seed=3"]
    config = composed("experiment=dadpo_vicuna_pruned", "teacher=/t", *keys)
    stage = stage_config(config, "prune")
    module, data = stage["module"], stage["datamodule"]
    assert (module["model"], module["ratio"], module["importance"], module["seed"]) == ("/t", 0.5, "random", 3)
    assert (data["data"], data["rows"], data["batch_size"]) == ("rows.jsonl", 7, 1)
    assert stage_config(config, "dsft")["module"]["model"].endswith("prune/model")


WRONG = {
    "a ratio of more than all": (["prune_ratio=1.2"], "got 1.2 (prune_ratio): above 0 and below 1"),
    "no calibration rows": (["calibration_rows=0"], "0 rows were asked for"),
    "a model type that cannot be pruned": ([], "cannot be pruned"),
    "an importance that is none": (["importance=luck"], "unknown importance 'luck'"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_ends_with_one_line(case, command, model_folder, prompts, tmp_path):
    overrides, said = WRONG[case]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Hi?", "chosen": " Yes."}) + "\n")
    teacher = model_folder("gpt_neox" if "type" in case else "llama", **TEACHER)
    code, err = command(
        "experiment=dadpo_vicuna_pruned",
        f"teacher={teacher}",
        *prompts,
        *QUICK,
        "stages=[prune]",
        f"calibration_data={rows}",
        *overrides,
    )
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if "rror" in line]
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "outputs" / "dadpo_vicuna_pruned" / "prune" / "model").exists()
