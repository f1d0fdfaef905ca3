"""Every wrong input ends with one clear line and exit code 2, and nothing half-written."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.conf.tiny import TINY

GOOD = {"prompt": [{"role": "user", "content": "Hi?"}], "chosen": None, "rejected": None}
GOOD |= {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "Yes."), ("rejected", "No."))}
GOOD2 = GOOD | {"prompt": [{"role": "user", "content": "How are you?"}]}


def pairs(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def distil(command, model_folder, tmp_path):
    """``stages=[scores,dadpo]`` on given pairs with tiny folders; what differs is the test's."""
    quick = ["trainer=cpu", "+trainer.enable_progress_bar=false", "dtype=float32", "trainer.precision=32-true"]

    def run(*rows, teacher=None, student=None, extra=()):
        data = pairs(tmp_path / "pairs.jsonl", *(rows or (GOOD, GOOD2)))
        folders = [f"teacher={teacher or model_folder(seed=1)}", f"student={student or model_folder(seed=2)}"]
        return command("experiment=dadpo_qwen", f"data={data}", *folders, "stages=[scores,dadpo]", *quick, *extra)

    return run


def one_line(result, *parts) -> None:
    code, err = result
    lines = [line for line in err.splitlines() if "rror" in line]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert err.splitlines()[-1] == lines[0]
    assert "Traceback" not in err
    for part in parts:
        assert part in lines[0], lines[0]


def test_the_same_command_with_good_input_works(distil, tmp_path):
    code, err = distil()
    assert code == 0, err
    assert (tmp_path / "outputs" / "dadpo_qwen" / "metrics.json").is_file()


BAD_ROWS = {
    "no prompt": ({key: value for key, value in GOOD.items() if key != "prompt"}, "no `prompt`"),
    "no chosen": ({key: value for key, value in GOOD.items() if key != "chosen"}, "no `chosen`"),
    "not JSON": ('{"prompt": ', "not JSON"),
    "empty response": (GOOD | {"chosen": [{"role": "assistant", "content": " "}]}, "empty"),
    "roles out of order": (GOOD | {"prompt": [{"role": "assistant", "content": "Hi"}]}, "roles out of order"),
}


@pytest.mark.parametrize("case", sorted(BAD_ROWS))
def test_a_bad_row_is_named_with_file_and_row(distil, case, tmp_path):
    row, said = BAD_ROWS[case]
    one_line(distil(GOOD, GOOD2, row), "pairs.jsonl:3", said)
    assert not (tmp_path / "outputs" / "dadpo_qwen" / "metrics.json").exists()


def test_a_prompt_longer_than_the_maximum(distil):
    one_line(distil(extra=["max_length=5"]), "pairs.jsonl:1", "maximum is 5", "max_length=")


def test_a_missing_file(command, model_folder):
    folders = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}"]
    one_line(
        command("experiment=dadpo_qwen", "data=nowhere.jsonl", *folders, "stages=[scores,dadpo]", "trainer=cpu"),
        "no such file",
        "nowhere.jsonl",
        "check data=",
    )


def test_a_template_whose_prefix_does_not_hold(distil, model_folder, tmp_path):
    import shutil

    student = tmp_path / "student"
    shutil.copytree(model_folder(seed=2), student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.chat_template = (
        "{{ messages|length }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(student)
    one_line(distil(student=student), "pairs.jsonl:1", "prefix")


def test_a_folder_that_is_no_model(distil, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    one_line(distil(teacher=empty), str(empty))


def test_tokenizers_that_differ(distil, model_folder, tmp_path):
    import shutil

    teacher = tmp_path / "teacher"
    shutil.copytree(model_folder(seed=1), teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(teacher)
    one_line(distil(teacher=teacher), "tokenizer", "<|new|>")


@pytest.mark.parametrize("betas", [("0", "0"), ("-0.1", "0.3"), ("0.3", "-0.1")])
def test_betas_that_cannot_be(distil, betas):
    one_line(distil(extra=[f"beta_ref={betas[0]}", f"beta_teacher={betas[1]}"]), "beta_ref")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("experiment=dadpo_quikstart", "dadpo_quickstart"),
        ("bta_ref=0.1", "bta_ref"),
        ("stages=[dadpoo]", "dadpoo"),
        ("trainer=tpu", "Could not find 'trainer/tpu'"),
    ],
)
def test_unknown_names_keep_hydras_suggestion(command, override, said):
    experiment = [] if override.startswith("experiment") else ["experiment=dadpo_qwen"]
    one_line(command(*experiment, override), said)


def test_no_experiment_at_all(command):
    one_line(command(), "experiment=dadpo_quickstart")


def test_a_value_left_open(command):
    one_line(command("experiment=dadpo_claim", "dev_data=???", *TINY[:1]), "dev_data")


def test_an_output_directory_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    one_line(command("experiment=dadpo_quickstart", f"hydra.run.dir={tmp_path}/file/run", *TINY), "file")


def test_a_full_disk(distil, monkeypatch):
    def full(source, target):
        raise OSError(28, os.strerror(28), str(target))

    monkeypatch.setattr(os, "replace", full)
    one_line(distil(), "No space left on device", "paths.output_dir=")


def test_a_full_disk_under_the_score_cache(distil, monkeypatch):
    import datamodules.score_cache as score_cache

    class Full(sqlite3.Connection):
        def executemany(self, *args):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    connect = sqlite3.connect
    monkeypatch.setattr(score_cache.sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
    one_line(distil(), "disk is full", "paths.cache_dir=")


def test_a_damaged_cache_file_is_said_set_aside_and_made_again(distil, tmp_path):
    assert distil()[0] == 0
    before = json.loads((tmp_path / "outputs/dadpo_qwen/metrics.json").read_text())
    files = sorted((tmp_path / "cache" / "scores").glob("*.sqlite"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])
    code, err = distil()
    assert code == 0
    assert "set aside" in err
    after = json.loads((tmp_path / "outputs/dadpo_qwen/metrics.json").read_text())
    assert after["scores/computed"] == before["scores/computed"] / 2
    assert after["dadpo/val/loss" if "dadpo/val/loss" in after else "dadpo/train/loss"] == pytest.approx(
        before["dadpo/val/loss" if "dadpo/val/loss" in before else "dadpo/train/loss"]
    )


def test_a_loss_that_is_no_number_names_its_rows(distil, model_folder, tmp_path):
    import shutil

    import safetensors.torch

    student = tmp_path / "student"
    shutil.copytree(model_folder(seed=2), student)
    weights = safetensors.torch.load_file(student / "model.safetensors")
    weights["lm_head.weight"][5] = float("nan")
    safetensors.torch.save_file(weights, student / "model.safetensors", {"format": "pt"})
    result = distil(student=student)
    one_line(result, "pairs.jsonl:")


def test_a_cause_of_ours_keeps_its_traceback(distil, monkeypatch):
    import lightning_modules.response_logps

    monkeypatch.setattr(lightning_modules.response_logps, "response_states", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        distil()


def test_full_errors_on_request(command, monkeypatch):
    import train

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(Exception, match="nothing to run"):
        train.command_line()


def test_a_judge_without_its_key_is_found_before_anything_is_trained(command, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    one_line(command("experiment=dadpo_qwen", "data=prompts.jsonl"), "no API key", "OPENAI_API_KEY")
    assert not (tmp_path / "cache").exists()
