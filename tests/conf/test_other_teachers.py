"""The quickstart, tiny, with a student of other tokens than its teacher's."""

import json

import pytest
from transformers import AutoTokenizer

import train
from tests.conf.tiny import TINY
from tests.other_tokenizers import pieces_tokenizer, saved_model, word_tokenizer

OTHER = ["experiment=dadpo_quickstart", *TINY, "teacher_tokenizer=${teacher}"]


@pytest.fixture
def pieces_folder(tmp_path):
    folder = tmp_path / "pieces"
    pieces_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_every_stage_runs_and_no_number_needs_shared_tokens(composed, pieces_folder, tmp_path, caplog):
    with caplog.at_level("INFO"):
        metrics = train.run(composed(*OTHER, f"tokenizer={pieces_folder}"))
    out = tmp_path / "out"
    teacher, student = (AutoTokenizer.from_pretrained(out / stage / "model") for stage in ("teacher", "dadpo"))
    assert student.get_vocab() == pieces_tokenizer().get_vocab() != teacher.get_vocab()
    assert metrics["scores/computed"] > 0
    assert metrics["scores/teacher_truncated"] == 0
    assert metrics["scores/teacher_tokens_ratio"] < 1  # its tokens are whole words
    assert "dadpo/val/target_margin" in metrics
    assert "student/dadpo/preference_rate" in metrics
    assert "teacher/response_tokens" in metrics
    assert not [key for key in metrics if "kl_to_teacher" in key]
    assert "KL to the teacher is left out" in caplog.text
    assert not [key for key in metrics if key.startswith("teacher-") or "peak_goodput_ratio" in key]
    assert [key for key in metrics if key.startswith("dadpo-fifo/")]
    for answer in (json.loads(line) for line in (out / "answers/responses/teacher.jsonl").open()):
        assert answer["response_tokens"] <= 8
        assert answer["response"]
    assert (out / "report.html").is_file()
    again = train.run(composed(*OTHER, f"tokenizer={pieces_folder}"))
    assert again["scores/computed"] == 0


def test_a_teacher_of_other_tokens_needs_a_word(command, tmp_path):
    teacher = saved_model(tmp_path / "teacher", word_tokenizer())
    student = saved_model(tmp_path / "student", pieces_tokenizer(), family="qwen2")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "Who?", "chosen": "Ada.", "rejected": "Bo."}) + "\n")
    run = ["experiment=dadpo_qwen", f"teacher={teacher}", f"student={student}", "data=pairs.jsonl", "trainer=cpu"]
    for mode in ("cached", "live"):
        code, err = command(*run, "stages=[dadpo]", f"mode={mode}")
        assert code == 2
        assert "its tokenizer is not the student's" in err.splitlines()[-1]
        assert "teacher_tokenizer=" in err.splitlines()[-1]
    code, err = command(*run, "stages=[dadpo]", "mode=live", f"teacher_tokenizer={teacher}")
    assert code == 2
    assert "live mode reads the student's tokens" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_the_plan_says_what_it_takes_for_granted(command, pieces_folder, tmp_path):
    planned = ["plan=true", "plan_tflops=0.1", "estimate.gbps=10", "stages=[teacher,dsft,scores,answers,evaluate]"]
    rows = tmp_path / "responses.jsonl"
    rows.write_text(json.dumps({"prompt": "Who?", "chosen": "Ada.", "rejected": "Bo."}) + "\n")
    given = [f"data={rows}", f"pair_data={rows}", f"stage.dsft.datamodule.data={rows}"]
    code, err = command(*OTHER, f"tokenizer={pieces_folder}", *planned, *given)
    assert code == 0, err
    stages = json.loads((tmp_path / "outputs/dadpo_quickstart/plan.json").read_text())["stages"]
    assert "evaluate" not in stages  # no KL is computed
    for name in ("scores", "answers"):
        assert "as many tokens of the teacher's as of the student's" in stages[name]["assumed"]
    assert "as many tokens of the teacher's as of the student's" not in stages["dsft"]["assumed"]
