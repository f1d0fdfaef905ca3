"""From the methods' questions and the judge's answers to one table and one file."""

import json
from types import SimpleNamespace

import pytest

from callbacks.question_evaluation import QuestionEvaluation
from callbacks.questions import Asked, question_differences, question_metrics
from datamodules.responses import ResponseLog
from datamodules.wrong_input import WrongInput

METHODS = ("rast", "fine_tuned", "beam")
CONTEXT = "Ada Holm founded the bakery in 1873 ."
REFERENCE = "Who founded the bakery in 1873 ?"
ASKED = {
    "rast": [("Who founded the bakery ?", None, 0.9), ("By whom was the bakery founded ?", "By whom [MASK] ?", 0.2)],
    "fine_tuned": [("Who founded the bakery ?", None, 0.9), ("Who founded the bakery ?", "Who [MASK] ?", 0.8)],
    "beam": [("When was the bakery founded ?", None, -0.1), ("Who founded the bakery in 1873 ?", None, -0.2)],
}
ANSWERS = {"rast": ["Ada Holm", "Ada Holm"], "fine_tuned": ["Ada", "Ada Holm"], "beam": ["1873", "the Ada Holm"]}


@pytest.fixture
def evaluate(tmp_path):
    """``evaluate(reference=REFERENCE, **settings) -> (metrics, rows of questions.jsonl)`` over three passages."""
    logs = {name: ResponseLog(tmp_path / "answers" / f"{name}.jsonl") for name in (*METHODS, "reference")}
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(barrier=lambda: None),
        is_global_zero=True,
        datamodule=SimpleNamespace(log_of=logs.__getitem__),
    )

    def run(reference=REFERENCE, methods=METHODS, **settings):
        callback = QuestionEvaluation(str(tmp_path / "questions"), tmp_path, methods, **settings)
        for place, name in enumerate(methods):
            questions = [
                {"question": q, "template": t, "score": s, "retrieval_score": None, "cluster": None, "rewards": {}}
                for q, t, s in ASKED[name]
            ]
            fixed = {"context": CONTEXT, "answer": "Ada Holm", "answer_start": 0, "reference": reference}
            rows = [{"id": f"p{n}", **fixed, "questions": questions} for n in range(3)]
            ResponseLog(tmp_path / "questions" / f"{name}.jsonl").append(rows)
            keys = [f"p{n}#{number}" for n in range(3) for number in range(2)]
            outputs = SimpleNamespace(row_ids=keys, texts=ANSWERS[name] * 3)
            callback.on_predict_batch_end(trainer, None, outputs, None, 0, place)
        true = SimpleNamespace(row_ids=[f"p{n}#0" for n in range(3)], texts=["Ada Holm", "Ada", "1873"])
        callback.on_predict_batch_end(trainer, None, true, None, 0, len(methods))
        callback.teardown(trainer, None, "predict")
        return callback.final_metrics, [json.loads(line) for line in (tmp_path / "questions.jsonl").open()]

    return run


def asked(name):
    questions, templates, scores = zip(*ASKED[name], strict=True)
    one = Asked(REFERENCE, CONTEXT, questions, scores, [t or "" for t in templates], "Ada Holm", ANSWERS[name])
    return [one] * 3


def test_every_number_is_that_of_the_metrics_on_the_same_questions(evaluate):
    metrics, _ = evaluate(seed=3)
    for name in METHODS:
        wanted = question_metrics(asked(name), seed=3)
        wanted = {key: value for key, value in wanted.items() if not key.startswith("nll")}  # not measured here
        assert {key: metrics[f"{name}/{key}"] for key in wanted} == pytest.approx(wanted, nan_ok=True)
    wanted = question_differences(asked("rast"), asked("fine_tuned"), seed=3)
    for end in ("", "_ci_low", "_ci_high"):
        assert metrics[f"rast/pairwise_bleu_minus_fine_tuned{end}"] == pytest.approx(wanted[f"pairwise_bleu{end}"])
    assert metrics["rast/qa_em"] == 100
    assert metrics["beam/qa_em"] == 50
    assert metrics["rast/pairwise_bleu_minus_fine_tuned"] < 0
    assert not [key for key in metrics if "nucleus" in key or key.startswith("beam") and "minus" in key]


def test_the_file_has_a_row_a_passage_with_everything(evaluate):
    _, rows = evaluate()
    assert [row["id"] for row in rows] == ["p0", "p1", "p2"]
    for row in rows:
        assert list(row) == ["id", "context", "answer", "answer_start", "reference", "methods"]
        for name, questions in row["methods"].items():
            assert [q["question"] for q in questions] == [q for q, _, _ in ASKED[name]]
            assert [q["answered"] for q in questions] == ANSWERS[name]


def test_a_split_has_its_prefix_and_a_missing_hero_no_comparison(evaluate):
    metrics, _ = evaluate(prefix="dev/", methods=("fine_tuned", "beam"))
    assert all(key.startswith(("dev/fine_tuned/", "dev/beam/", "dev/reference/")) for key in metrics)


def test_the_true_questions_stand_beside_the_methods_with_what_can_be_said_of_one_question(evaluate):
    metrics, rows = evaluate()
    assert metrics["reference/qa_em"] == pytest.approx(100 / 3)
    assert metrics["reference/qa_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert not [key for key in metrics if key.startswith("reference/") and "bleu" in key]
    assert not [key for key in metrics if "nll" in key]
    assert all("reference" not in row["methods"] for row in rows)


def test_likelihoods_are_those_of_the_questions(evaluate, tmp_path):
    for place, name in enumerate((*METHODS, "reference")):
        found = [{"id": f"p{n}#{number}", "logp": -3.0 - place, "tokens": 2} for n in range(3) for number in range(2)]
        ResponseLog(tmp_path / "likely" / f"{name}.jsonl").append(found)
    metrics, rows = evaluate(likelihoods=str(tmp_path / "likely"))
    assert [metrics[f"{name}/nll"] for name in (*METHODS, "reference")] == [1.5, 2.0, 2.5, 3.0]
    assert metrics["rast/nll_minus_fine_tuned"] == -0.5
    assert rows[0]["methods"]["beam"][1]["logp"] == -5.0


def test_a_passage_without_a_true_question(evaluate):
    with pytest.raises(WrongInput, match="p0"):
        evaluate(reference=None)
