"""Passages to be asked about, and questions to be answered: what is done already is not done again."""

import pytest

from datamodules.almanac import almanac_question_tokenizer, passages
from datamodules.asked_questions import REFERENCE, AskedQuestionsDataModule, AskedTextsDataModule, question_id
from datamodules.asking import AskingDataModule
from datamodules.question_encoding import QuestionEncoder
from datamodules.responses import ResponseLog

ROWS = list(passages(0, "test", 10))
METHODS = ["rast", "beam"]


@pytest.fixture(scope="module")
def tokenizer():
    return almanac_question_tokenizer()


@pytest.fixture
def asking(tokenizer, tmp_path):
    def make(rows=ROWS, **settings):
        defaults = {"methods": METHODS, "folder": tmp_path / "questions", "batch_size": 4}
        data = AskingDataModule(rows, tokenizer, **{**defaults, **settings})
        data.setup("predict")
        return data

    return make


def asked_row(row, count=2):
    questions = [{"question": f"Who is it, {n}?", "template": None, "score": 0.0} for n in range(count)]
    kept = {name: row[name] for name in ("id", "context", "answer", "answer_start")}
    return kept | {"reference": row["question"], "questions": questions}


def test_each_method_gets_every_passage_once_with_nothing_left_out_of_the_search(asking, tokenizer):
    data = asking()
    for loader in data.predict_dataloader():
        batches = list(loader)
        assert sorted(e.id for batch in batches for e in batch.examples) == sorted(row["id"] for row in ROWS)
        encoder = QuestionEncoder(tokenizer, 512)
        for batch in batches:
            assert (batch.own_template == -1).all()
            for ids, mask, example in zip(batch.input_ids, batch.attention_mask, batch.examples, strict=True):
                assert ids[mask.bool()].tolist() == encoder.passage(example)
    assert data.final_metrics == {"rows": 10, "cut_passages": 0, "unanswerable": 0}


def test_batches_that_are_done_are_passed_over_and_the_others_stay_as_they_are(asking):
    data = asking()
    whole = [[e.id for e in batch.examples] for batch in data.predict_dataloader()[0]]
    done = [{"id": place} for place in whole[1]] + [{"id": whole[2][0]}]
    data.log_of("rast").append(done)
    left, untouched = (list(loader) for loader in asking().predict_dataloader())
    assert [[e.id for e in batch.examples] for batch in left] == [whole[0], whole[2]]
    assert [[e.id for e in batch.examples] for batch in untouched] == whole


def test_rows_need_no_question_and_cut_passages_are_counted(asking):
    bare = [{name: value for name, value in row.items() if name != "question"} for row in ROWS]
    data = asking(bare, max_length=16)
    assert data.final_metrics["cut_passages"] == 10
    assert all(example.question == "" for example in data.examples.values())


def test_questions_go_to_the_judge_with_their_passages(asking, tokenizer, tmp_path):
    for name in METHODS:
        asking().log_of(name).append([asked_row(row) for row in ROWS])
    data = AskedQuestionsDataModule(
        str(tmp_path / "questions"), tokenizer, methods=METHODS, folder=tmp_path / "answers", batch_size=6
    )
    data.setup("predict")
    encoder = QuestionEncoder(tokenizer, 512)
    rows = {row["id"]: row for row in ROWS}
    *loaders, true = data.predict_dataloader()
    asked = {key: tokenizer.decode(ids[mask.bool()]) for batch in true for ids, mask, key in zip(*batch, strict=True)}
    assert asked.keys() == {question_id(place, 0) for place in rows}
    for loader in loaders:
        found = {}
        for batch in loader:
            for ids, mask, key in zip(batch.input_ids, batch.attention_mask, batch.row_ids, strict=True):
                found[key] = ids[mask.bool()].tolist()
        assert found.keys() == {question_id(place, number) for place in rows for number in range(2)}
        for key, ids in found.items():
            place, _, number = key.rpartition("#")
            assert ids == encoder.qa(rows[place]["context"], f"Who is it, {number}?")
    answered = [key for batch in list(data.predict_dataloader()[0])[:2] for key in batch.row_ids]
    ResponseLog(tmp_path / "answers" / "rast.jsonl").append([{"id": key, "answer": ""} for key in answered])
    assert [len(list(loader)) for loader in data.predict_dataloader()] == [2, 4, 2]


def test_questions_go_to_a_language_model_alone(asking, tokenizer, tmp_path):
    for name in METHODS:
        asking().log_of(name).append([asked_row(row) for row in ROWS[:3]] + [asked_row(ROWS[3]) | {"reference": None}])
    data = AskedTextsDataModule(str(tmp_path / "questions"), tokenizer, methods=METHODS, folder=tmp_path / "likely")
    data.setup("predict")
    assert data.methods == [*METHODS, REFERENCE]
    first, _, true = (next(iter(loader)) for loader in data.predict_dataloader())
    assert len(first.row_ids) == 8
    assert sorted(true.row_ids) == sorted(question_id(row["id"], 0) for row in ROWS[:3])
    questions = {question_id(row["id"], 0): row["question"] for row in ROWS}
    for ids, mask, key in zip(true.input_ids, true.response_mask, true.row_ids, strict=True):
        assert ids[0] == tokenizer.eos_token_id
        assert ids[mask].tolist() == tokenizer(questions[key], add_special_tokens=False)["input_ids"]
