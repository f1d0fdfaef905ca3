import pytest

from datamodules.instruction import InstructionDataModule
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.wrong_input import WrongInput

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CONVERSATION = {"messages": [SYSTEM, user("Who?"), answer("Ada."), user("Where?"), answer("In Mill Lane.")]}
CHAT = {"prompt": [user("Who?")], "completion": [answer("Ada.")]}


def made(source, tokenizer, **settings) -> InstructionDataModule:
    data = InstructionDataModule(source, tokenizer, **{"val_fraction": 0} | settings)
    data.setup("fit")
    return data


def learnt(data, tokenizer) -> list[tuple[str, str]]:
    """Each example as prompt and response."""
    rows = ((row.ids[: row.prompt_length], row.ids[row.prompt_length :]) for row in data.train_rows)
    return [(tokenizer.decode(prompt), tokenizer.decode(response)) for prompt, response in rows]


def test_every_assistant_turn_is_a_response_to_what_was_said_before(tokenizer):
    data = made([CONVERSATION], tokenizer)
    first = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    second = f"{first}Ada.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(data, tokenizer) == [(first, "Ada.<|im_end|>"), (second, "In Mill Lane.<|im_end|>")]
    assert [row.place for row in data.train_rows] == ["row 1", "row 1"]
    assert data.final_metrics == {"rows": 2, "truncated": 0}


def test_prompt_and_response_of_the_field_asked_for(tokenizer):
    asked = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(made([CHAT], tokenizer), tokenizer) == [(asked, "Ada.<|im_end|>")]
    pair = {"prompt": "Who? ", "chosen": "Ada.", "rejected": "No.", "messages": None}
    assert learnt(made([pair], tokenizer, response="chosen"), tokenizer) == [("Who? ", "Ada.<|im_end|>")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Who? "}, "no `completion`"),
        ({"completion": "Ada."}, "no `prompt`"),
        ({"messages": [answer("Ada.")]}, "roles out of order: assistant"),
        ({"messages": [user("Who?")]}, "roles out of order: user"),
        ({"messages": [user("Who?"), answer(" ")]}, "the response is empty"),
        ({"messages": []}, "not a list of turns"),
    ],
)
def test_a_row_to_learn_nothing_from_is_named(tokenizer, row, said):
    with pytest.raises(WrongInput, match=said) as error:
        made([CONVERSATION, row], tokenizer)
    assert "row 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_conversations_are_held_out_whole(tokenizer):
    rows = [
        {
            "messages": [
                user(f"Who is {i}?"),
                answer("Ada."),
                user("Where?"),
                answer("Here."),
                user("When?"),
                answer("Now."),
            ]
        }
        for i in range(30)
    ]
    data = made(rows, tokenizer, val_fraction=0.3)
    places = {name: [row.place for row in getattr(data, name)] for name in ("train_rows", "val_rows")}
    assert places["val_rows"]
    assert places["train_rows"]
    assert not set(places["train_rows"]) & set(places["val_rows"])
    assert all(held.count(place) == 3 for held in places.values() for place in held)
    first_turns = [{"prompt": row["messages"][:1], "completion": row["messages"][1:2]} for row in rows]
    assert [row.place for row in made(first_turns, tokenizer, val_fraction=0.3).val_rows] == places["val_rows"][::3]


def test_the_prompts_held_out_are_those_of_the_preference_pairs(tokenizer):
    rows = [{"prompt": f"Who is {i}? ", "chosen": "Ada.", "rejected": "No."} for i in range(40)]
    mine = made(rows, tokenizer, response="chosen", val_fraction=0.3)
    theirs = PreferencePairsDataModule(rows, tokenizer, val_fraction=0.3)
    theirs.setup("fit")
    assert [row.place for row in mine.val_rows] == [pair.chosen.place for pair in theirs.val_pairs]
    assert mine.val_rows


def test_held_out_rows_of_their_own(tokenizer):
    data = made([CHAT] * 3, tokenizer, val_data=[CONVERSATION], val_fraction=0.5)
    assert (len(data.train_rows), len(data.val_rows)) == (3, 2)


def test_a_handful_of_rows_is_never_held_out_whole(tokenizer):
    data = made([CHAT, CONVERSATION], tokenizer, val_fraction=0.999999)
    assert len(data.train_rows) == 3
    assert data.val_dataloader() == []


def test_batches_learn_responses_only(tokenizer):
    data = made([CHAT, CONVERSATION] * 4, tokenizer, batch_size=4)
    batches = list(data.train_dataloader())
    assert [len(batch.row_ids) for batch in batches] == [4, 4, 4]
    for batch in batches:
        for ids, mask in zip(batch.input_ids, batch.response_mask, strict=True):
            assert tokenizer.decode(ids[mask]) in ("Ada.<|im_end|>", "In Mill Lane.<|im_end|>")


def test_cut_responses_are_counted(tokenizer):
    long = {"prompt": "Who? ", "completion": "Ada " * 40}
    assert made([long, CHAT], tokenizer, max_length=30).final_metrics == {"rows": 2, "truncated": 1}


def test_settings_that_cannot_be_are_refused(tokenizer):
    with pytest.raises(WrongInput, match="val_fraction"):
        InstructionDataModule([CHAT], tokenizer, val_fraction=-0.1)
    with pytest.raises(WrongInput, match="there are no rows"):
        made([], tokenizer)


def test_only_the_first_rows_are_read(tokenizer):
    rows = iter([CHAT, CONVERSATION, CHAT, CHAT])
    assert len(made(rows, tokenizer, rows=2).train_rows) == 3  # the conversation has two turns to learn
    assert len(list(rows)) == 2
    assert len(made([CHAT], tokenizer, rows=9, val_data=[CHAT, CHAT]).val_rows) == 2
    with pytest.raises(WrongInput, match="-1 rows were asked for"):
        InstructionDataModule([CHAT], tokenizer, rows=-1)
