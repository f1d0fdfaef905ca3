import json

import pytest

from datamodules.almanac import passages
from datamodules.question_rows import read_examples
from datamodules.wrong_input import WrongInput

CONTEXT = "Ada Holm founded the mill in 1875. Ada lives."
ROW = {"context": CONTEXT, "question": "When?", "answer": "1875", "answer_start": CONTEXT.index("1875")}
AT = ROW["answer_start"]


def test_the_almanacs_passages_are_read_as_they_are():
    examples, unanswerable = read_examples(passages(0, "test", 20, 2))
    assert unanswerable == 0
    for example, row in zip(examples, passages(0, "test", 20, 2), strict=True):
        assert example._asdict() == {key: row[key] for key in ("id", "context", "answer", "answer_start", "question")}


def test_rows_of_a_file_are_named_by_their_lines(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n\n" + json.dumps(ROW) + "\n")
    assert [one.id for one in read_examples(str(tmp_path / "rows.jsonl")).examples] == ["rows.jsonl:1", "rows.jsonl:3"]


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": {"text": ["1875", "in 1875"], "answer_start": [AT, AT - 3]}},
        {"answers": ["1875"], "labels": [{"start": [AT], "end": [AT + 3]}], "key": "k"},
        {
            "answers": ["1875"],
            "detected_answers": {"text": ["1875"], "char_spans": [{"start": [AT], "end": [AT + 3]}]},
        },
    ],
    ids=["SQuAD", "NewsQA", "MRQA"],
)
def test_every_layout_says_the_same(answers):
    row = {"context": CONTEXT, "question": "When?", **answers}
    (example,) = read_examples([row]).examples
    assert (example.answer, example.answer_start) == ("1875", AT)


def test_questions_without_an_answer_are_passed_over_and_counted():
    row = {"context": CONTEXT, "question": "Why?", "answers": {"text": [], "answer_start": []}}
    examples, unanswerable = read_examples([row, ROW, row])
    assert (len(examples), unanswerable) == (1, 2)


def test_an_answer_at_offset_0_is_an_answer():
    (example,) = read_examples([ROW | {"answer": "Ada", "answer_start": 0}]).examples
    assert (example.answer, example.answer_start) == ("Ada", 0)
    assert read_examples([ROW | {"answer": "Ada", "answer_start": 35}]).examples[0].answer_start == 35


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_start": AT + 1}, f"stands '875.' and not the answer '1875' (row 2): set answer_start to {AT}"),
        ({"answer": "Ada", "answer_start": 30}, "set answer_start to 35"),
        ({"answer": "1876"}, "the answer '1876' is not in the passage"),
        ({"answer": CONTEXT + " And more."}, "the passage is shorter than the answer"),
        ({"answer": None}, "no `answer`"),
        ({"answer_start": None}, "no `answer_start`"),
        ({"answer": " "}, "the answer is empty"),
        ({"answer": 1875}, "the answer is empty"),
        ({"answer_start": -1}, "`answer_start` is -1"),
        ({"answer_start": "28"}, "`answer_start` is '28'"),
        ({"answer_start": True}, "`answer_start` is True"),
        ({"context": ""}, "no `context`"),
        ({"question": None}, "no `question`"),
        ({"answers": {"text": ["1875"]}}, "answers cannot be read"),
        ({"answers": ["1875"], "labels": [{"start": [AT]}]}, "answers cannot be read"),
        ({"answers": {"text": "1", "answer_start": 3}}, "answers cannot be read"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_mend(change, said):
    with pytest.raises(WrongInput) as error:
        read_examples([ROW, ROW | change])
    line = str(error.value)
    assert said in line
    assert "row 2" in line
    assert "\n" not in line


def test_long_texts_are_quoted_in_part():
    with pytest.raises(WrongInput) as error:
        read_examples([ROW | {"context": "x" * 9000, "answer": "y" * 5000, "answer_start": 0}])
    assert len(str(error.value)) < 300


def test_questions_may_be_left_out_where_they_are_not_needed():
    bare = {key: value for key, value in ROW.items() if key != "question"}
    assert read_examples([bare], questions=False).examples[0].question == ""
    with pytest.raises(WrongInput, match="no `question`"):
        read_examples([bare])


def test_no_rows_and_two_of_one_id_are_refused():
    with pytest.raises(WrongInput, match="there are no questions"):
        read_examples([])
    with pytest.raises(WrongInput, match="two rows have one id"):
        read_examples([ROW | {"id": "a"}, ROW | {"id": "a"}])
