import json

import pytest

from datamodules.pairs import as_completion, open_rows, read_pairs, read_prompt, read_response
from datamodules.rows import Row
from datamodules.wrong_input import WrongInput

USER, GOOD, BAD = (
    {"role": r, "content": c} for r, c in (("user", "Who?"), ("assistant", "Ada."), ("assistant", "No."))
)
STANDARD = {"prompt": "Who? ", "chosen": "Ada.", "rejected": "No."}
CHAT = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


def refused(rows, tokenizer, *parts: str) -> None:
    with pytest.raises(WrongInput) as error:
        list(read_pairs(rows, tokenizer, 100))
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert part in line, line


@pytest.mark.parametrize("row", [STANDARD, CHAT])
def test_both_of_trls_formats_other_fields_ignored(tokenizer, row, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row | {"score_chosen": 0.5, "messages": None, "id": 7}) + "\n")
    (from_file,) = read_pairs(str(path), tokenizer, 100)
    (in_process,) = read_pairs([row], tokenizer, 100)
    assert (from_file.chosen.place, in_process.chosen.place) == ("pairs.jsonl:1", "row 1")
    for side, text in (("chosen", "Ada."), ("rejected", "No.")):
        made = getattr(from_file, side)
        assert made.ids.tolist() == getattr(in_process, side).ids.tolist()
        assert tokenizer.decode(made.ids[made.prompt_length :]) == f"{text}<|im_end|>"
    assert from_file.responses == (from_file.chosen, from_file.rejected)
    chosen, rejected = (r.ids[: r.prompt_length].tolist() for r in from_file.responses)
    assert chosen == rejected


def test_rows_made_in_process_are_named_by_id_or_number():
    assert [row.place for row in open_rows([{"id": "p-7"}, {"prompt": "a"}, {"id": 9}])] == ["p-7", "row 2", "9"]


def test_cut_responses_are_known(tokenizer):
    (short,) = read_pairs([STANDARD], tokenizer, 100)
    longest = max(len(response.ids) for response in short.responses)
    long = STANDARD | {"rejected": "No, I do not think that I could tell you that today."}
    cut, whole = read_pairs([long, STANDARD], tokenizer, longest)
    assert (cut.chosen.truncated, cut.rejected.truncated, cut.truncated) == (False, True, True)
    assert not whole.truncated


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "Ada.", "rejected": "No."}, "no `prompt`"),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, "no `prompt`"),
        (STANDARD | {"prompt": ""}, "no `prompt`"),
        (STANDARD | {"prompt": " \n"}, "no `prompt`"),
        (CHAT | {"prompt": []}, "no `prompt`"),
        ({"prompt": "Who? ", "rejected": "No."}, "no `chosen`"),
        ({"prompt": "Who? ", "chosen": "Ada."}, "no `rejected`"),
        (STANDARD | {"chosen": None}, "no `chosen`"),
        (STANDARD | {"chosen": " "}, "`chosen` is empty"),
        (CHAT | {"rejected": [BAD | {"content": "\n"}]}, "`rejected` is empty"),
        (STANDARD | {"chosen": [GOOD]}, "`prompt` and `chosen` are of two kinds"),
        (CHAT | {"rejected": "No."}, "`prompt` and `rejected` are of two kinds"),
        (CHAT | {"chosen": [USER, GOOD]}, "`chosen` has 2 turns"),
        (CHAT | {"chosen": [USER]}, "roles out of order: user"),
        (CHAT | {"prompt": [USER, GOOD]}, "roles out of order: user → assistant"),
        (CHAT | {"prompt": {"role": "user"}}, "not a list of turns"),
        (CHAT | {"chosen": []}, "not a list of turns"),
        (CHAT | {"prompt": 7}, "not a list of turns"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tokenizer, tmp_path, row, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (STANDARD, CHAT, row)))
    refused(str(path), tokenizer, said, "pairs.jsonl:3")


def test_responses_return_to_the_prompts_kind():
    for row in (STANDARD, CHAT):
        prompt = read_prompt(Row("a:1", row))
        assert as_completion(prompt, read_response(Row("a:1", row), "chosen", prompt)) == row["chosen"]
