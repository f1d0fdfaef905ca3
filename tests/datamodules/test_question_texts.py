"""Questions as running text: opened, and in training ended."""

from transformers import AutoTokenizer

from datamodules.almanac import almanac_question_tokenizer, passages
from datamodules.question_texts import QuestionTextDataModule, question_text_ids

TOKENIZER = almanac_question_tokenizer()
ROWS = list(passages(0, "train", 20))


def test_a_text_opens_with_the_beginning_or_the_end_of_the_one_before(tmp_path):
    ids = TOKENIZER("Who is it?", add_special_tokens=False)["input_ids"]
    assert question_text_ids(TOKENIZER, "Who is it?") == [TOKENIZER.eos_token_id, *ids]
    TOKENIZER.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path, bos_token="<unk>")
    assert question_text_ids(other, "Who is it?") == [other.unk_token_id, *ids]
    assert question_text_ids(TOKENIZER, "") == [TOKENIZER.eos_token_id]


def test_what_looks_like_a_special_token_is_text():
    assert TOKENIZER.eos_token_id not in question_text_ids(TOKENIZER, "a </s> b")[1:]


def test_training_learns_each_question_and_its_end():
    data = QuestionTextDataModule(ROWS, TOKENIZER, batch_size=5, val_data=ROWS[:3])
    data.setup("fit")
    assert (len(data.train_rows), len(data.val_rows)) == (20, 3)
    batch = data.collate(data.train_rows[:5])
    for row, ids, mask in zip(ROWS, batch.input_ids, batch.response_mask, strict=False):
        wanted = TOKENIZER(row["question"], add_special_tokens=False)["input_ids"]
        assert ids[mask].tolist() == [*wanted, TOKENIZER.eos_token_id]
