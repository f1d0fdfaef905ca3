import pytest
from transformers import AutoTokenizer, T5Config

from datamodules.almanac import almanac_question_tokenizer, passages
from datamodules.question_tokens import QUESTION_TOKENS


@pytest.fixture(scope="module")
def tokenizer():
    return almanac_question_tokenizer()


def test_every_word_of_the_almanac_is_one_token(tokenizer):
    for split in ("train", "validation", "test"):
        for row in passages(0, split, 200, 2):
            for text in (row["context"], row["question"], row["answer"]):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids) == text
                assert len(ids) <= len(text.split()) + sum(text.count(mark) for mark in ".,;:?")


def test_an_answer_has_the_tokens_that_it_has_in_the_passage(tokenizer):
    for row in passages(0, "test", 100):
        answer = tokenizer.convert_ids_to_tokens(tokenizer(row["answer"], add_special_tokens=False)["input_ids"])
        assert " ".join(answer) in " ".join(tokenizer.tokenize(row["context"]))


def test_special_tokens_are_those_of_t5_and_of_question_generation(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("Who?")["input_ids"][-1] == 1
    assert tokenizer.tokenize("Who <hl> saw [MASK] <sep> ?") == [
        "▁Who",
        "<hl>",
        "▁",
        "s",
        "a",
        "w",
        "[MASK]",
        "<sep>",
        "▁?",
    ]
    assert len({tokenizer.convert_tokens_to_ids(token) for token in QUESTION_TOKENS}) == 3
    spelt = tokenizer("Zebra_9 {x}!", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(spelt) == "Zebra_9 {x}!"


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_it_is_the_same_after_saving_and_when_made_again(tokenizer, tmp_path, beside_a_model):
    tokenizer.save_pretrained(tmp_path)
    if beside_a_model:  # whose type then decides which class is loaded
        T5Config().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f"{row['context']} <sep> {row['question']} [MASK]" for row in passages(0, "test", 50, 2)]
    for other in (loaded, almanac_question_tokenizer()):
        assert other.get_vocab() == tokenizer.get_vocab()
        assert other(texts)["input_ids"] == tokenizer(texts)["input_ids"]
        assert (other.pad_token_id, other.eos_token_id) == (0, 1)
