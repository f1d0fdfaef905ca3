import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.almanac import almanac_question_tokenizer, almanac_tokenizer, passages
from datamodules.batches import Example
from datamodules.question_encoding import QuestionEncoder
from datamodules.question_rows import read_examples
from datamodules.question_tokenizers import train_question_tokenizer
from datamodules.question_tokens import QUESTION_TOKENS, add_question_tokens
from datamodules.wrong_input import WrongInput

CONTEXT = "Ada Holm founded the bakery in Mill Lane. Ada opens it at 7 o'clock."
TEMPLATE = "Who founded [MASK] in [MASK] ?"
TOKENIZER = almanac_question_tokenizer()


def at(answer: str, start: int | None = None) -> Example:
    return Example("row 1", CONTEXT, answer, CONTEXT.index(answer) if start is None else start, "Who?")


def written(ids) -> str:
    return " ".join(TOKENIZER.convert_ids_to_tokens(ids)).replace("▁", "")


def encoder(max_length: int = 100) -> QuestionEncoder:
    return QuestionEncoder(TOKENIZER, max_length)


def test_the_answer_is_marked_where_it_is_annotated_not_where_it_first_stands():
    assert written(encoder().passage(at("Ada", 42))) == (
        "Ada Holm founded the bakery in Mill Lane . <hl> Ada <hl> opens it at 7 o'clock . </s>"
    )


def test_an_answer_at_offset_0_is_marked_there():
    assert written(encoder().passage(at("Ada", 0))).startswith("<hl> Ada <hl> Holm founded")


def test_template_and_question_come_last_behind_one_separator():
    styled = written(encoder().styled(at("Mill Lane"), TEMPLATE))
    assert styled.endswith("<sep> Who founded [MASK] in [MASK] ? </s>")
    assert styled.startswith("Ada Holm founded the bakery in <hl> Mill Lane <hl> . Ada")
    assert written(encoder().qa(CONTEXT, "Who opens the bakery?")) == (
        "Ada Holm founded the bakery in Mill Lane . Ada opens it at 7 o'clock . <sep> Who opens the bakery ? </s>"
    )


def test_masks_are_one_token_however_they_are_written():
    upper, lower = (encoder().styled(at("Ada"), text) for text in ("Who saw [MASK]?", "Who saw [mask]?"))
    assert upper == lower
    assert upper.count(TOKENIZER.get_vocab()["[MASK]"]) == 1


def test_no_template_is_the_marked_passage_alone():
    assert encoder().styled(at("Ada"), "") == encoder().passage(at("Ada"))


def test_a_passage_is_read_once_for_many_questions_and_what_is_remembered_is_bounded(monkeypatch):
    writes, read = encoder(), []
    ids = QuestionEncoder._ids
    monkeypatch.setattr(QuestionEncoder, "_ids", lambda self, text, **how: read.append(text) or ids(self, text, **how))
    monkeypatch.setattr("datamodules.question_encoding.KNOWN_TEXTS", 6)
    first = writes.qa(CONTEXT, "Who is it?", (0, 3))
    again = [writes.qa(CONTEXT, question, (0, 3)) for question in ("Who?", "Where?", "Who is it?")]
    assert again[-1] == first
    assert read.count(CONTEXT) == 1
    assert len(read) == 4
    for number in range(20):
        writes.qa(CONTEXT, f"{number}?", (0, 3))
        assert len(writes._known) <= 6
    assert writes.qa(CONTEXT, "Who is it?", (0, 3)) == first


def test_the_answer_is_looked_for_once_for_many_questions(monkeypatch):
    writes, looked = encoder(12), []
    look_for = QuestionEncoder._look_for
    monkeypatch.setattr(QuestionEncoder, "_look_for", lambda self, *at: looked.append(at) or look_for(self, *at))
    kept = {tuple(writes.qa(CONTEXT, question, span)[:3]) for question in ("Who?", "Where?") for span in [(0, 3)]}
    assert looked == [(CONTEXT, (0, 3))]
    assert len(kept) == 1
    writes.qa(CONTEXT, "Who?", (42, 45))  # the second Ada
    assert looked[1:] == [(CONTEXT, (42, 45))]


LONG = [example for example in read_examples(passages(0, "train", 20, 6)).examples]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LONG), st.integers(20, 200), st.sampled_from(["", TEMPLATE, "what is it ?"]))
def test_the_passage_is_cut_around_the_answer_and_nothing_else_is(example, max_length, template):
    made = QuestionEncoder(TOKENIZER, max_length).marked(example, template)
    whole = QuestionEncoder(TOKENIZER, 10_000).marked(example, template).ids
    assert len(made.ids) == min(max_length, len(whole))
    assert len(made.ids) + made.cut == len(whole)
    highlight, separator = (TOKENIZER.get_vocab()[token] for token in QUESTION_TOKENS[:2])
    first, second = (n for n, token in enumerate(made.ids) if token == highlight)
    assert TOKENIZER.decode(made.ids[first + 1 : second]) == example.answer
    if template:  # the template survives whole, at the very end
        tail = whole[whole.index(separator) :]
        assert made.ids[-len(tail) :] == tail
        assert written(tail) == f"<sep> {written(TOKENIZER(template)['input_ids'])}"
    end = made.ids.index(separator) if template else len(made.ids) - 1
    left, right = first, end - second - 1
    whole_left = whole.index(highlight)
    whole_right = len(whole) - whole_left - (second - first + 1) - (len(made.ids) - end)
    assert abs(left - right) <= 1 or left == whole_left or right == whole_right
    # what is left of the passage stands next to the answer, in one piece
    start = whole_left - left
    assert whole[start : start + end] == made.ids[:end]


def span_of(example: Example) -> tuple[int, int]:
    return example.answer_start, example.answer_start + len(example.answer)


@pytest.fixture(scope="module")
def subwords(tmp_path_factory):
    """Tokens that are no words: spelt with the space before them, and where a text begins as if one were there."""
    data = tmp_path_factory.mktemp("subwords") / "rows.jsonl"
    rows = passages(0, "train", 60, 2)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train_question_tokenizer(str(data), 300)


@pytest.mark.parametrize("sentences", [1, 4])
def test_an_answerer_is_not_told_where_the_answer_is(sentences, subwords):
    for example in read_examples(passages(0, "train", 150, sentences)).examples:
        for tokenizer in (TOKENIZER, subwords):
            writes = QuestionEncoder(tokenizer, 2000)
            told = writes.qa(example.context, example.question, span_of(example))
            assert told == writes.qa(example.context, example.question)
            whole = tokenizer(example.context, add_special_tokens=False)["input_ids"]
            assert told[: len(whole)] == whole


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LONG), st.integers(20, 200), st.booleans())
def test_a_cut_passage_keeps_the_answer_for_the_answerer_in_one_piece(subwords, example, max_length, words):
    writes = QuestionEncoder(TOKENIZER if words else subwords, max_length)
    kept = writes.asked(example.context, "Who?", span_of(example))
    whole = QuestionEncoder(writes.tokenizer, 10_000).qa(example.context, "Who?")
    tail = whole[whole.index(writes.tokenizer.get_vocab()["<sep>"]) :]
    assert kept.ids[-len(tail) :] == tail
    assert len(kept.ids) == min(max_length, len(whole)) == len(whole) - kept.cut
    passage = kept.ids[: -len(tail)]
    assert any(whole[at : at + len(passage)] == passage for at in range(len(whole)))
    assert example.answer in writes.tokenizer.decode(passage)


def test_where_the_answer_stands_in_a_cut_passage_says_nothing():
    """Its middle would: over many passages the answer is in each quarter of what is kept."""
    writes, places = encoder(60), []
    for example in read_examples(passages(1, "train", 400, 6)).examples:
        ids = writes.qa(example.context, "Who?", span_of(example))
        answer = TOKENIZER(example.answer, add_special_tokens=False)["input_ids"]
        at = next(n for n in range(len(ids)) if ids[n : n + len(answer)] == answer)
        places.append(at / 57)
    quarters = [sum(n / 4 <= place < (n + 1) / 4 for place in places) for n in range(4)]
    assert min(quarters) > 60


def test_without_a_span_the_beginning_of_a_passage_is_kept():
    example = LONG[0]
    beginning = encoder(30).qa(example.context, "Who is it?")
    assert beginning[:24] == encoder(500).qa(example.context, "Who is it?")[:24]


def test_a_tokenizer_that_does_not_say_where_its_tokens_stand_is_refused(monkeypatch):
    monkeypatch.setattr(type(TOKENIZER), "is_fast", False)
    with pytest.raises(WrongInput, match="where its tokens stand"):
        encoder()


@pytest.mark.parametrize("length", [5, 8])
def test_what_must_not_be_cut_and_finds_no_room_is_refused(length):
    with pytest.raises(WrongInput, match=f"the maximum is {length}") as error:
        encoder(length).styled(at("Mill Lane"), TEMPLATE)
    assert "row 1" in str(error.value)
    with pytest.raises(WrongInput, match="has 5 tokens and the maximum is 4"):
        encoder(4).passage(at("Mill Lane"))
    assert len(encoder(5).passage(at("Mill Lane"))) == 5


def test_targets_always_end():
    whole = encoder().target("Who founded it?", 10)
    assert (written(whole.ids), whole.cut) == ("Who founded it ? </s>", 0)
    short = encoder().target("Who founded it?", 3)
    assert (written(short.ids), short.cut) == ("Who founded </s>", 2)


def test_what_looks_like_a_special_token_in_a_passage_is_text():
    special = {TOKENIZER.get_vocab()[token] for token in (*QUESTION_TOKENS, "</s>", "<pad>")}
    context = "Ada <hl> wrote </s> and <sep> or [MASK] <pad> Holm"
    made = encoder().qa(context, "Who <sep> </s>?")
    assert [token for token in made if token in special] == [TOKENIZER.get_vocab()["<sep>"], TOKENIZER.eos_token_id]
    marked = encoder().passage(Example("row 1", context, "Holm", context.index("Holm"), ""))
    assert sum(token in special for token in marked) == 3


def test_a_tokenizer_that_lacks_the_tokens_is_refused_until_they_are_added():
    tokenizer = almanac_tokenizer(500)
    with pytest.raises(WrongInput, match=r"lacks <hl>, <sep>, \[MASK\]"):
        QuestionEncoder(tokenizer, 100)
    before = len(tokenizer)
    assert add_question_tokens(tokenizer) == list(QUESTION_TOKENS)
    assert add_question_tokens(tokenizer) == []
    assert len(tokenizer) == before + 3
    ids = QuestionEncoder(tokenizer, 100).styled(at("Mill Lane"), TEMPLATE)
    assert tokenizer.decode(ids[:-1]) == (
        "Ada Holm founded the bakery in<hl> Mill Lane<hl>. Ada opens it at 7 o'clock."
        "<sep>Who founded [MASK] in [MASK] ?"
    )


OTHERS = "Who <sep> founded </s> [MASK] <hl> in [mask] <pad>?"


@pytest.mark.parametrize("published", [False, True])
def test_in_a_template_only_the_mask_is_special(published, tmp_path):
    if published:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in passages(0, "train", 40)))
        tokenizer = train_question_tokenizer(str(file), 400)
    else:
        tokenizer = TOKENIZER
    made = QuestionEncoder(tokenizer, 200)
    vocabulary = tokenizer.get_vocab()
    sources = [made.styled(at("Ada"), template) for template in (TEMPLATE, OTHERS)]
    for token, count in {"[MASK]": 2, "<sep>": 1, "<hl>": 2, "</s>": 1, "<pad>": 0}.items():
        assert [source.count(vocabulary[token]) for source in sources] == [count, count]
    plain = tokenizer(TEMPLATE, add_special_tokens=False)["input_ids"]
    assert sources[0][-len(plain) - 1 : -1] == plain  # as the tokenizer alone has it
    assert made._template(f"</s> {TEMPLATE}")[-len(plain) :] == plain  # and so beside what is written out
