"""The quickstart, tiny: every stage runs, is skipped when nothing changed, and leaves what it promises."""

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from tests.conf.tiny import CONF, TINY

STUDENTS = ("dsft", "sft_chosen", "ddpo", "dadpo")
WITH_INTERVAL = ("win_rate", "tie_rate", "lose_rate", "preference_rate", "accuracy", "kl_to_teacher", "response_tokens")
README = Path(train.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """One tiny run of every stage; gives a function that runs it again with other settings in the same folders."""
    folder = tmp_path_factory.mktemp("quickstart")

    def run(*overrides):
        paths = [f"paths.output_dir={folder}/out", f"paths.cache_dir={folder}/cache", "name=test"]
        with initialize_config_dir(CONF, version_base="1.3"):
            config = compose("train", overrides=["experiment=dadpo_quickstart", *TINY, *paths, *overrides])
        return train.run(config)

    return folder / "out", run("logger=csv"), run


def test_metrics_hold_what_is_promised(quickstart):
    folder, metrics, _ = quickstart
    written = json.loads((folder / "metrics.json").read_text())
    assert written.keys() == metrics.keys()
    assert "teacher/accuracy" in written
    for student in STUDENTS:
        for key in WITH_INTERVAL:
            value, low, high = (written[f"student/{student}/{key}{end}"] for end in ("", "_ci_low", "_ci_high"))
            assert low <= value <= high
    for student in STUDENTS:
        rates = [written[f"student/{student}/{o}_rate"] for o in ("win", "tie", "lose")]
        assert sum(rates) == pytest.approx(1)
        assert written[f"student/{student}/preference_rate"] == pytest.approx(rates[0] - rates[2])
    assert written["scores/computed"] > 0


def test_every_logged_key_stands_in_the_readme(quickstart):
    folder, _, _ = quickstart
    table = README.read_text().split("## What is logged")[1].split("`metrics.json` adds")[0]
    told = set(re.findall(r"`(\w+)`(?=[^|]*\|)", table))
    logged = set()
    for stage in ("teacher", "dsft", "dadpo", "ddpo", "sft_chosen"):
        for line in (folder / stage / "curve.jsonl").read_text().splitlines():
            keys = set(json.loads(line)) - {"id", "step"}
            assert all(re.fullmatch(rf"{stage}/(train|val)/\w+", key) for key in keys), keys
            logged |= {key.rpartition("/")[2] for key in keys}
    assert logged == told


def test_the_same_run_again_computes_nothing_and_says_the_same(quickstart):
    folder, metrics, run = quickstart
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")}
    again = run("logger=csv")
    assert again["scores/computed"] == 0
    assert again["scores/reused"] == metrics["scores/computed"]
    skip = {"scores/computed", "scores/reused"}
    assert {k: v for k, v in again.items() if k not in skip} == {k: v for k, v in metrics.items() if k not in skip}
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")} == made


def test_other_betas_and_learning_rate_compute_no_score_again(quickstart):
    folder, metrics, run = quickstart
    before = (folder / "dadpo").resolve(), (folder / "teacher").resolve()
    other = run("beta_ref=0.2", "beta_teacher=0.4", "lr=1e-3", "stages=[scores,dadpo]")
    assert other["scores/computed"] == 0
    assert (folder / "dadpo").resolve() != before[0]
    assert (folder / "teacher").resolve() == before[1]
    assert other["dadpo/val/loss"] != metrics["dadpo/val/loss"]


def test_other_weights_of_the_teacher_compute_everything_again(quickstart, tmp_path):
    folder, metrics, run = quickstart
    other = tmp_path / "teacher"
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher" / "model")
    model.lm_head.weight.data[3] += 0.01
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(folder / "teacher" / "model").save_pretrained(other)
    again = run(f"teacher={other}", "stages=[scores]")
    # the reference's scores are still right; all of the teacher's are made anew
    assert again["scores/computed"] == metrics["scores/computed"] / 2


def test_the_student_is_a_hugging_face_folder(quickstart):
    folder, _, _ = quickstart
    student = folder / "dadpo" / "model"
    names = {path.name for path in student.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    turns = [{"role": "user", "content": "Who is the oldest?"}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


def test_the_report_stands_by_itself(quickstart):
    folder, _, _ = quickstart
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)


@pytest.mark.slow
def test_live_mode_says_the_same_as_the_cache_and_needs_none(quickstart):
    folder, _, run = quickstart
    cached = run("stages=[scores,dadpo]")
    scores = folder.parent / "cache" / "scores"
    aside = scores.rename(scores.with_name("aside"))
    try:
        live = run("stages=[dadpo]", "mode=live")  # which needs none of them
        assert not scores.exists()
    finally:
        aside.rename(scores)
    for key in ("loss", "margin", "target_margin", "chosen_logps"):
        assert live[f"dadpo/val/{key}"] == pytest.approx(cached[f"dadpo/val/{key}"], rel=1e-5, abs=1e-5)
