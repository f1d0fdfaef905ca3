"""The bank of a run: made, or given, or refused."""

import pytest

from datamodules.almanac import passages
from datamodules.question_rows import read_examples
from datamodules.template_bank import TemplateBankDataModule
from datamodules.templates import TemplateExtractor, bank_of_examples
from datamodules.wrong_input import WrongInput

ROWS = list(passages(0, "train", 120))


def made(**settings):
    data = TemplateBankDataModule(ROWS, **settings)
    data.setup("test")
    return data


def test_it_is_made_of_the_training_questions():
    data = made()
    assert data.bank.texts == bank_of_examples(read_examples(ROWS).examples, TemplateExtractor()).texts
    assert data.final_metrics == {"bank_size": len(data.bank)}
    assert len(list(data.test_dataloader())) == 1


def test_a_users_own_takes_its_place(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("Who founded [MASK] ?\nWhen did the Normans come?\nno question\n")
    assert made(bank=str(file)).bank.texts == ["Who founded [MASK] ?", "When did [MASK] ?"]
    assert made(bank=str(file)).final_metrics == {"bank_size": 2, "dropped_lines": 1, "without_mask": 0}
    with pytest.raises(WrongInput, match=r"3 templates a passage are wanted and the bank has 2 \(.*own.txt"):
        made(bank=str(file), least=3)


def test_similar_templates_are_left_out_as_told():
    assert len(made(largest_similarity=0.2).bank) < len(made(largest_similarity=0.9).bank)


def test_other_rows_are_read_to_be_checked():
    wrong = [ROWS[0] | {"answer_start": 9999}]
    made(read_too=[None, [{key: value for key, value in ROWS[0].items() if key != "question"}]])
    with pytest.raises(WrongInput, match="answer_start"):
        made(read_too=[None, wrong])


def test_rows_that_cannot_be_compared_with_are_told(caplog):
    without = {key: value for key, value in ROWS[0].items() if key != "question"} | {"id": "test 1"}
    made(read_too=[ROWS])
    assert "no question" not in caplog.text
    made(read_too=[[ROWS[0], without]])
    assert "1 of 2 rows have no question to compare with (the first: test 1)" in caplog.text
    with pytest.raises(WrongInput, match="no `question`"):
        made(val_data=[without])


def test_what_is_drawn_is_drawn_beside_the_own_template(tmp_path):
    size = len(made().bank)
    assert len(made(least=size, drawn=size - 1).bank) == size
    with pytest.raises(WrongInput, match=f"{size} templates are wanted beside a passage's own, and the bank has"):
        made(least=size, drawn=size)
    strange = tmp_path / "own.txt"  # no row's own
    strange.write_text("And why [MASK] !\nBut then [MASK] .\n")
    assert len(made(bank=str(strange), least=2, drawn=2).bank) == 2
    held_out = ROWS[0] | {"id": "held out", "question": f"And why {ROWS[0]['answer']}!"}
    with pytest.raises(WrongInput, match="2 templates are wanted beside a passage's own"):
        made(bank=str(strange), least=2, drawn=2, val_data=[held_out])
