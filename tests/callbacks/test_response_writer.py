import json
from types import SimpleNamespace

import pytest

from callbacks.response_writer import ResponseWriter
from datamodules.prompts import PromptDataModule
from datamodules.wrong_input import WrongInput

ROWS = [{"id": f"p{i}", "prompt": [{"role": "user", "content": f"Question {i}?"}]} for i in range(5)]
CHOSEN = ["good", "good", "same", "", "good"]
REJECTED = ["bad", "bad", "same", "bad", "bad"]


@pytest.fixture
def written(tokenizer, tmp_path):
    """The callback after both models answered; row 1 of the chosen ones was cut off."""

    def run(keep_unfinished=False, chosen=CHOSEN):
        names = ["chosen", "rejected"]
        data = PromptDataModule(ROWS, tokenizer, answering=names, folder=tmp_path / "responses")
        data.setup("predict")
        trainer = SimpleNamespace(
            datamodule=data, is_global_zero=True, strategy=SimpleNamespace(barrier=lambda: None), world_size=1
        )
        callback = ResponseWriter(tmp_path / "pairs.jsonl", keep_unfinished=keep_unfinished)
        for name, texts in (("chosen", chosen), ("rejected", REJECTED)):
            finished = [not (name == "chosen" and i == 1) for i in range(5)]
            from lightning_modules.sampling import Responses

            outputs = Responses(name, [row["id"] for row in ROWS], list(texts), [3] * 5, finished)
            callback.on_predict_batch_end(trainer, None, iter([outputs]), None, 0)
        callback.teardown(trainer, None, "predict")
        rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
        return callback.final_metrics, rows

    return run


def test_what_teaches_nothing_is_left_out_and_counted(written):
    counts, rows = written()
    assert [row["id"] for row in rows] == ["p0", "p4"]
    assert {key: counts[key] for key in ("rows", "unfinished", "empty", "equal")} == {
        "rows": 2,
        "unfinished": 1,
        "empty": 1,
        "equal": 1,
    }


def test_rows_are_trls_conversational_preference_format(written):
    _, rows = written()
    assert rows[0] == {
        "id": "p0",
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }


def test_unfinished_responses_can_be_kept_and_are_counted_all_the_same(written):
    counts, rows = written(keep_unfinished=True)
    assert [row["id"] for row in rows] == ["p0", "p1", "p4"]
    assert counts["unfinished"] == 1


def test_nothing_left_is_said(written):
    with pytest.raises(WrongInput, match="no row is left of 5"):
        written(chosen=[""] * 5)
