"""Generated questions to disk: every method's log, and one method's data set."""

import json
from types import SimpleNamespace

import pytest

from callbacks.question_writer import QuestionWriter
from datamodules.responses import ResponseLog
from lightning_modules.rast.asking import Asked, Question

EXAMPLE = SimpleNamespace(id="p1", context="Ada built it.", answer="Ada", answer_start=0, question="")
ASKED = [Question("Who?", None, None, 0.5, 1.0, None, {}), Question("By whom?", "By [MASK] ?", 3, 0.4, 0.9, 0, {})]


@pytest.fixture
def write(tmp_path):
    """``write(method) -> (rows of the data set or None, final metrics)`` where ``nucleus`` and ``beam`` have asked."""

    def run(method):
        data = SimpleNamespace(
            methods=["nucleus", "beam"],
            examples={"p1": EXAMPLE},
            log_of=lambda name: ResponseLog(tmp_path / "questions" / f"{name}.jsonl"),
        )
        strategy = SimpleNamespace(barrier=lambda: None)
        trainer = SimpleNamespace(datamodule=data, is_global_zero=True, strategy=strategy)
        callback, output = QuestionWriter(tmp_path / "questions.jsonl", method), tmp_path / "questions.jsonl"
        for name in data.methods:
            callback.on_predict_batch_end(trainer, None, Asked(name, [EXAMPLE], [ASKED]), None, 0)
        callback.teardown(trainer, None, "predict")
        rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else None
        return rows, callback.final_metrics

    return run


def test_a_template_is_named_by_its_line_in_the_bank(write):
    (row,), metrics = write("beam")
    assert [(one["template"], one["template_id"]) for one in row["questions"]] == [(None, None), ("By [MASK] ?", 5)]
    keys = ["question", "template", "template_id", "score", "retrieval_score", "cluster", "rewards"]
    assert list(row["questions"][1]) == keys
    assert metrics == {"questions": 4}


def test_a_hero_that_has_not_asked_leaves_no_data_set_and_is_told(write, caplog):
    rows, metrics = write("rast")
    assert rows is None
    assert metrics == {"questions": 4}
    assert "rast is none of the methods that ask, so there is no questions.jsonl" in caplog.text
