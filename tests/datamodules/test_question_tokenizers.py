import json

import pytest
from transformers import AutoTokenizer

from datamodules.almanac import almanac_question_tokenizer, passages
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_rows import read_examples
from datamodules.question_tokenizers import load_question_tokenizer, shared_tokenizer, train_question_tokenizer
from datamodules.question_tokens import lacking_tokens
from datamodules.wrong_input import WrongInput


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in passages(0, "train", 200)))
    return str(file)


@pytest.fixture(scope="module")
def trained(data):
    return train_question_tokenizer(data, 600)


def test_it_is_what_the_stages_need(trained, data, tmp_path):
    assert lacking_tokens(trained) == []
    assert (trained.pad_token_id, trained.eos_token_id, len(trained)) == (0, 1, 603)
    example = read_examples(data).examples[0]
    QuestionEncoder(trained, 200).styled(example, "Who founded [MASK] ?")
    trained.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == trained.get_vocab()


@pytest.mark.parametrize("text", ["Who founded the bakery?", "Wer gründete 1873 die Bäckerei?", "何 — 🙂"])
def test_every_text_can_be_written_and_read_again(trained, text):
    ids = trained(text, add_special_tokens=False)["input_ids"]
    assert trained.decode(ids, skip_special_tokens=True).strip() == text


def test_frequent_words_are_one_token(trained):
    assert len(trained("bakery", add_special_tokens=False)["input_ids"]) <= 2
    assert len(trained("opens", add_special_tokens=False)["input_ids"]) == 1


def test_the_same_data_give_the_same_tokenizer(data, trained):
    from datamodules.question_tokenizers import _trained

    _trained.cache_clear()
    assert train_question_tokenizer(data, 600).get_vocab() == trained.get_vocab()


def test_too_few_tokens_for_the_bytes(data):
    with pytest.raises(WrongInput, match="258 or more"):
        train_question_tokenizer(data, 200)


def test_models_that_share_a_tokenizer_and_one_that_does_not(trained, tmp_path):
    for name in "abc":
        trained.save_pretrained(tmp_path / name)
    other = load_question_tokenizer(str(tmp_path / "c"))
    other.add_tokens(["<new>"])
    other.save_pretrained(tmp_path / "c")
    ours, same, another = (str(tmp_path / name) for name in "abc")
    assert shared_tokenizer(ours, [ours, same]).get_vocab() == trained.get_vocab()
    with pytest.raises(WrongInput, match="'<new>'"):
        shared_tokenizer(ours, [same, another])


def test_marks_are_added_to_a_published_tokenizer(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    assert lacking_tokens(tokenizer)
    assert lacking_tokens(load_question_tokenizer(str(tmp_path))) == []
    almanac_question_tokenizer().save_pretrained(tmp_path / "almanac")
    assert len(load_question_tokenizer(str(tmp_path / "almanac"))) == len(almanac_question_tokenizer())
