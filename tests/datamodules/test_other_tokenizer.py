"""The same texts in the teacher's tokens: ends, cuts, prefixes, and what is refused."""

import logging

import pytest

from datamodules.other_tokenizer import check_teacher, own_tokenizers
from datamodules.pairs import read_pairs
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.prompts import PromptDataModule
from datamodules.scored_pairs import response_key
from datamodules.wrong_input import WrongInput
from tests.other_tokenizers import pieces_tokenizer, saved_model, word_tokenizer

TURNS = [{"role": "user", "content": "Who is the oldest?"}]
TEXTS = ["It is Vera Grant, the brewer.", "Vera is."]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


CHAT = {"id": "chat", "prompt": TURNS, "chosen": answer(TEXTS[0]), "rejected": answer(TEXTS[1])}
PLAIN = {"id": "plain", "prompt": "The oldest is", "chosen": " Vera Grant.", "rejected": " Vera."}


@pytest.fixture(scope="module")
def words():
    return word_tokenizer("It is Vera Grant, the brewer. Vera is. The oldest is Who is the oldest? Vera → Hippopotamus")


@pytest.fixture(scope="module")
def pieces():
    return pieces_tokenizer()


def both(rows, ours, theirs, max_length=200):
    return list(read_pairs(rows, ours, max_length, theirs))


def test_the_teacher_reads_its_own_template_and_ends_turns_its_own_way_once(words, pieces):
    (chat, plain) = both([CHAT, PLAIN], pieces, words)
    assert chat.chosen.ids[-1] == pieces.eos_token_id
    assert chat.read_by("reference") is chat
    theirs = chat.read_by("teacher")
    for text, response in zip(TEXTS, theirs.responses, strict=True):
        assert words.decode(response.prompt) == "<s>[user] Who is the oldest?</turn>[assistant] "
        assert words.decode(response.response) == f"{text}</turn>"
        assert response.ids.tolist().count(words.eos_token_id) == 2  # the user's and the answer's
    assert [words.decode(r.ids) for r in plain.read_by("teacher").responses] == [
        "The oldest is Vera Grant.</turn>",
        "The oldest is Vera.</turn>",
    ]
    assert not any(r.truncated for pair in (theirs, plain.for_teacher) for r in pair.responses)


def test_an_end_that_the_text_brings_along_is_not_counted_twice(words, pieces):
    (pair,) = both([CHAT | {"chosen": answer("Vera is.</turn>"), "rejected": answer("Vera is.")}], pieces, words)
    theirs = pair.read_by("teacher")
    assert theirs.chosen.ids.tolist() == theirs.rejected.ids.tolist()


def test_a_text_that_begins_with_the_first_token_gets_it_once(words, pieces):
    from tokenizers import processors

    opening = word_tokenizer(PLAIN["prompt"])
    opening.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", opening.bos_token_id)]
    )
    for prompt in ("The oldest is", "<s>The oldest is"):
        (pair,) = both([PLAIN | {"prompt": prompt}], pieces, opening)
        assert opening.decode(pair.read_by("teacher").chosen.prompt) == "<s>The oldest is"


@pytest.mark.parametrize("row", [CHAT, PLAIN])
def test_of_a_cut_response_the_teacher_reads_what_is_left_and_no_end(words, pieces, row):
    (whole,) = both([row], pieces, words)
    text = row["chosen"] if isinstance(row["chosen"], str) else row["chosen"][0]["content"]
    for kept in range(1, len(whole.chosen.response)):
        limit = whole.chosen.prompt_length + kept
        (pair,) = both([row], pieces, words, limit)
        left = pieces.decode(pair.chosen.response)
        assert pair.chosen.truncated
        assert text.startswith(left)
        theirs = pair.read_by("teacher").chosen
        assert not theirs.truncated
        assert theirs.response.tolist() == words(left, add_special_tokens=False)["input_ids"]


def test_no_end_on_either_side_even_where_only_the_end_was_cut(words, pieces):
    (whole,) = both([CHAT], pieces, words)
    (pair,) = both([CHAT], pieces, words, len(whole.chosen.ids) - 1)
    assert pieces.decode(pair.chosen.response) == TEXTS[0]
    assert words.decode(pair.read_by("teacher").chosen.response) == TEXTS[0]


def test_half_a_character_is_no_text(words, pieces):
    row = CHAT | {"chosen": answer("Vera → Grant")}
    (whole,) = both([row], pieces, words)
    for kept in range(1, len(whole.chosen.response)):
        (pair,) = both([row], pieces, words, whole.chosen.prompt_length + kept)
        left = pieces.decode(pair.chosen.response).rstrip("\ufffd")
        assert pair.read_by("teacher").chosen.response.tolist() == words(left)["input_ids"]


def test_what_is_cut_in_the_teachers_tokens_is_counted_and_said(words, pieces, tmp_path, caplog):
    folders = saved_model(tmp_path / "student", words), saved_model(tmp_path / "teacher", pieces)
    row = CHAT | {"id": "long", "chosen": answer("Vera" + " Hippopotamus" * 6)}
    data = PreferencePairsDataModule(
        [CHAT, row],
        words,
        reference=folders[0],
        teacher=folders[1],
        teacher_tokenizer=folders[1],
        cache_dir=tmp_path / "scores",
        max_length=50,
    )
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    (long,) = [pair for pair in data.train_pairs if pair.chosen.place == "long"]
    theirs = long.read_by("teacher").chosen
    assert len(theirs.ids) == 50
    assert theirs.truncated
    assert theirs.ids[-1] != pieces.eos_token_id
    assert (data.final_metrics["truncated"], data.final_metrics["teacher_truncated"]) == (0, 1)
    assert data.final_metrics["teacher_tokens_ratio"] > 1
    assert "1 of 4 responses are cut in the teacher's tokens" in caplog.text
    assert "an approximation" in caplog.text


def test_texts_that_the_student_cannot_tell_apart_keep_their_own_scores(words, pieces, tmp_path):
    rows = [CHAT | {"id": name, "chosen": answer(f"It is {name}.")} for name in ("Xaverio", "Quirinus")]
    folders = saved_model(tmp_path / "student", words), saved_model(tmp_path / "teacher", pieces)
    models = {"reference": folders[0], "teacher": folders[1], "teacher_tokenizer": folders[1]}
    data = PreferencePairsDataModule(rows, words, cache_dir=tmp_path / "scores", batch_size=1, **models)
    data.setup("fit")
    one, two = data.train_pairs
    assert response_key(one.chosen) == response_key(two.chosen)  # both are unknown words
    loaders = dict(zip(("reference", "teacher"), data.predict_dataloader(), strict=True))
    assert data.final_metrics["computed"] == 2 + 3
    for name, loader in loaders.items():
        data.cache(name).write({key: -float(int(key[:5], 16)) for batch in loader for key in batch.row_ids})
        for key in (key for batch in loader for key in batch.row_ids):
            assert any(word in data.place_of(key) for word in ("Xaverio", "Quirinus"))
    expected = [-float(int(response_key(pair.read_by("teacher").chosen)[:5], 16)) for pair in (one, two)]
    assert data.train_scores().teacher_chosen_logps.tolist() == expected
    assert expected[0] != expected[1]


def test_a_template_of_the_teachers_that_rewrites_earlier_turns_is_refused_with_the_row(pieces):
    rewriting = word_tokenizer()
    rewriting.chat_template = "{{ messages|length }}" + rewriting.chat_template
    with pytest.raises(WrongInput, match="no prefix") as error:
        both([PLAIN, CHAT], pieces, rewriting)
    assert "chat, in the teacher's tokens" in str(error.value)


def test_a_prompt_too_long_for_the_teacher_is_refused_with_the_row(words, pieces):
    prompts = [len(pair.chosen.prompt) for pair in (both([CHAT], words, pieces)[0], both([CHAT], pieces, words)[0])]
    assert prompts[0] < prompts[1]
    with pytest.raises(WrongInput, match="the prompt has") as error:
        both([CHAT], words, pieces, prompts[0] + 2)
    assert "chat, in the teacher's tokens" in str(error.value)


def test_a_cut_text_that_cannot_be_told_is_refused(words, pieces):
    with pytest.raises(WrongInput, match="do not tell at which character") as error:
        both([PLAIN | {"chosen": " Vera Quirinus Grant, the brewer."}], words, pieces, 8)
    assert "raise max_length=" in str(error.value)


def test_two_vocabularies_without_a_word_are_refused(words, pieces, tmp_path):
    student, teacher = saved_model(tmp_path / "student", pieces), saved_model(tmp_path / "teacher", words)
    models = {"reference": student, "teacher": teacher, "cache_dir": tmp_path / "scores"}
    with pytest.raises(WrongInput, match="its tokenizer is not the student's") as error:
        PreferencePairsDataModule([CHAT], pieces, **models).setup("fit")
    assert "set teacher_tokenizer=" in str(error.value)
    with pytest.raises(WrongInput, match="not the tokenizer of the teacher"):
        PreferencePairsDataModule([CHAT], pieces, teacher_tokenizer=student, **models).setup("fit")
    with pytest.raises(WrongInput, match="without cached scores"):
        PreferencePairsDataModule([CHAT], pieces, teacher_tokenizer=teacher)
    for mode in ("cached", "live"):
        with pytest.raises(WrongInput, match="its tokenizer is not the student's"):
            check_teacher(teacher, student, None, mode, tmp_path / "out")
    with pytest.raises(WrongInput, match="live mode reads the student's tokens"):
        check_teacher(teacher, student, teacher, "live", tmp_path / "out")
    check_teacher(teacher, student, teacher, "cached", tmp_path / "out")
    check_teacher(student, student, None, "live", tmp_path / "out")
    check_teacher(str(tmp_path / "out" / "teacher" / "model"), student, None, "live", tmp_path / "out")  # to come


def test_only_those_that_are_given_have_one_of_their_own(pieces, tmp_path):
    pieces.save_pretrained(tmp_path)
    assert own_tokenizers(chosen=None, teacher=None) == {}
    own = own_tokenizers(chosen=str(tmp_path), rejected=None)
    assert list(own) == ["chosen"]
    assert own["chosen"].get_vocab() == pieces.get_vocab()


def test_each_model_is_asked_in_its_own_tokens(words, pieces, tmp_path):
    rows = [{"id": f"q{i}", "prompt": [{"role": "user", "content": "Who is " * i + "the oldest?"}]} for i in (3, 1, 2)]
    names = ["chosen", "rejected"]
    data = PromptDataModule(rows, pieces, tokenizers={"chosen": words}, answering=names, folder=tmp_path, batch_size=3)
    data.setup("predict")
    for loader, tokenizer, opening in zip(
        data.predict_dataloader(), (words, pieces), ("<s>[user] Who is", "user: Who is"), strict=True
    ):
        (batch,) = loader
        assert batch.row_ids == ["q1", "q2", "q3"]
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            assert tokenizer.decode(ids[mask.bool()]).startswith(opening)
        assert set(batch.input_ids[batch.attention_mask == 0].tolist()) == {tokenizer.pad_token_id}
