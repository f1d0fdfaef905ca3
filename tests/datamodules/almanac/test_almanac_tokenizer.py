import time

import pytest
from transformers import AutoConfig, AutoTokenizer

from datamodules.almanac import almanac_tokenizer, dialogues, passages
from datamodules.almanac.vocabulary import FAMILY_NAMES, GIVEN_NAMES, PRICES, TRADES, YEARS
from datamodules.wrong_input import WrongInput

TEXTS = [
    "The cheapest is baker Ada Holm, at 12 crowns.",
    "Où est le café? Zoë – naïve, 東京 🙂👩‍🔬",
    "  two  spaces\n\n\tand a tab, 12345 -3.5e7 1875\r\n",
    "\x00\x7f",
    "<|im_start|>user\nWho?<|im_end|>\n",
]


@pytest.fixture(scope="module")
def tokenizer():
    return almanac_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rows_survive(tokenizer):
    for row in dialogues(0, "test", 50, "long"):
        text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_words_and_numbers_are_single_tokens(tokenizer):
    words = [*GIVEN_NAMES, *FAMILY_NAMES, *TRADES, *YEARS, *PRICES]
    assert [word for word in words if len(tokenizer.tokenize(f" {word}")) != 1] == []


def test_the_template_is_chatml_and_its_prefix_holds(tokenizer):
    row = next(iter(dialogues(0, "test", 1)))
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    assert whole.startswith(prompt)
    assert whole.removeprefix(prompt) == f"{row['completion'][0]['content']}<|im_end|>\n"
    ids, prompt_ids = tokenizer(whole)["input_ids"], tokenizer(prompt)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, *tokenizer("<|im_start|>")["input_ids"]}) == 3


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_it_is_the_same_after_saving(tokenizer, tmp_path, beside_a_model):
    tokenizer.save_pretrained(tmp_path)
    if beside_a_model:  # whose type then decides which class is loaded
        AutoConfig.for_model("qwen2").save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    texts = TEXTS + [row["context"] + row["question"] for row in passages(0, "test", 50, 2)]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_training_is_quick_and_repeatable(tokenizer):
    started = time.process_time()
    again = almanac_tokenizer()
    assert time.process_time() - started < 4  # of processor time, so that a busy machine does not fail it
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_vocabulary_is_no_larger_than_asked(tokenizer):
    assert 500 <= len(tokenizer) <= 1024
    assert len(almanac_tokenizer(500)) == 500
    with pytest.raises(WrongInput):
        almanac_tokenizer(100)
