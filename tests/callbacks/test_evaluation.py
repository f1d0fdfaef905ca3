import json
from types import SimpleNamespace

import pytest

from callbacks.evaluation import EvaluationCallback
from callbacks.judges import RuleJudge
from datamodules.responses import ResponseLog

ANSWERS = {
    "teacher": ["right", "right", "wrong", "right"],
    "weak": ["wrong", "right", "wrong", "wrong"],
    "strong": ["right", "right", "right", "wrong"],
}


def mark(answer, key):
    return SimpleNamespace(fact=answer == key["answer"], style=True)


@pytest.fixture
def evaluated(tmp_path):
    """The callback after a run over four prompts; the weak student diverges twice as far as the strong one."""
    for name, texts in ANSWERS.items():
        rows = [
            {"id": f"p{i}", "prompt": "q", "response": text, "response_tokens": i + 1, "key": {"answer": "right"}}
            for i, text in enumerate(texts)
        ]
        ResponseLog(tmp_path / "responses" / f"{name}.jsonl").append(rows)
    callback = EvaluationCallback(
        str(tmp_path / "responses"), tmp_path / "out", ["weak", "strong"], RuleJudge(mark), mark=mark, prefix="dev/"
    )
    trainer = SimpleNamespace(world_size=1, is_global_zero=True)
    for name, nats in (("weak", 2.0), ("strong", 1.0)):
        outputs = SimpleNamespace(model=name, nats=[nats, 3 * nats], tokens=[1, 3])
        callback.on_predict_batch_end(trainer, None, outputs, None, 0)
    callback.teardown(trainer, None, "predict")
    return callback.final_metrics, tmp_path / "out"


def test_rates_accuracy_and_divergence_by_hand(evaluated):
    metrics, _ = evaluated
    expected = {
        "teacher/accuracy": 3 / 4,
        "teacher/response_tokens": 2.5,
        "student/weak/win_rate": 0.0,
        "student/weak/tie_rate": 2 / 4,
        "student/weak/lose_rate": 2 / 4,
        "student/weak/preference_rate": -2 / 4,
        "student/weak/accuracy": 1 / 4,
        "student/weak/kl_to_teacher": 8 / 4,  # sums over sums: 8 nats on 4 tokens
        "student/strong/win_rate": 1 / 4,
        "student/strong/preference_rate": 0.0,
        "student/strong/accuracy": 3 / 4,
        "student/strong/kl_to_teacher": 1.0,
        "student/strong/preference_gain_over_weak": 2 / 4,
    }
    for key, value in expected.items():
        assert metrics[f"dev/{key}"] == pytest.approx(value), key
    for key in ("student/strong/kl_to_teacher", "student/strong/preference_gain_over_weak"):
        assert metrics[f"dev/{key}_ci_low"] <= metrics[f"dev/{key}"] <= metrics[f"dev/{key}_ci_high"]


def test_every_verdict_is_kept_for_statistics_across_runs(evaluated):
    _, folder = evaluated
    rows = [json.loads(line) for line in (folder / "outcomes.jsonl").open()]
    assert [row["outcomes"]["strong"] for row in rows] == ["tie", "tie", "win", "lose"]
    assert rows[2]["facts"] == {"teacher": False, "weak": False, "strong": True}


def test_examples_on_which_students_differ_come_first(evaluated):
    _, folder = evaluated
    rows = [json.loads(line) for line in (folder / "examples.jsonl").open()]
    assert {row["id"] for row in rows[:2]} == {"p0", "p2"}
    assert rows[0]["answers"].keys() == ANSWERS.keys()
