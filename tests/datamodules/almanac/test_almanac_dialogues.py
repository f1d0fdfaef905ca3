import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from datamodules.almanac import dialogues, mark
from datamodules.almanac.marking import CLOSINGS, COURTESIES, PHRASES
from datamodules.almanac.questions import TOPICS
from datamodules.almanac.records import SPLITS
from datamodules.almanac.vocabulary import COUNT_WORDS
from datamodules.wrong_input import WrongInput

LENGTHS = ("short", "long")
HOUSE = re.compile(r"(\w+) ([A-Z]\w+ [A-Z]\w+) (\d{4}) (\d+)\.")


def page_of(row):
    """The page, read from the system turn: (trade, name, year, price) a house."""
    return [(t, name, int(year), int(price)) for t, name, year, price in HOUSE.findall(row["prompt"][0]["content"])]


@pytest.mark.parametrize("answers", LENGTHS)
@pytest.mark.parametrize("split", SPLITS)
def test_gold_answers_are_marked_right(answers, split):
    for row in dialogues(1, split, 300, answers):
        answer = row["completion"][0]["content"]
        assert mark(answer, row["key"]) == (True, True), answer


def test_rows_do_not_depend_on_the_count_nor_on_the_process():
    rows = list(dialogues(5, "test", 8, "long"))
    assert rows[:3] == list(dialogues(5, "test", 3, "long"))
    code = (
        "import json; from datamodules.almanac.dialogues import dialogues\n"
        "print(json.dumps(list(dialogues(5, 'test', 8, 'long'))))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(elsewhere) == rows


def test_the_shape_of_a_row():
    for row in dialogues(0, "test", 200):
        assert row["id"].startswith("almanac-test-")
        roles = [turn["role"] for turn in row["prompt"]]
        assert roles in (["system", "user"], ["system", "user", "assistant", "user"])
        assert [turn["role"] for turn in row["completion"]] == ["assistant"]
        assert json.loads(json.dumps(row)) == row


def test_pages_of_the_splits_share_no_person():
    seen = {split: {house[1] for row in dialogues(0, split, 500) for house in page_of(row)} for split in SPLITS}
    assert all(seen.values())
    assert all(not seen[a] & seen[b] for a in SPLITS for b in SPLITS if a != b)


def test_the_answer_key_follows_from_the_page():
    for row in dialogues(2, "train", 300):
        page = page_of(row)
        years, prices = [house[2] for house in page], [house[3] for house in page]
        truth = {
            "cheapest": str(min(prices)),
            "dearest": str(max(prices)),
            "oldest": str(min(years)),
            "youngest": str(max(years)),
            "count": COUNT_WORDS[len(page)],
        }
        assert row["key"]["page"] == truth
        question = row["prompt"][-1]["content"]
        assert PHRASES[row["key"]["topic"]] in question or question == "How many are listed?"


def test_every_topic_is_asked_first_and_as_a_follow_up():
    rows = list(dialogues(0, "train", 600))
    for follow_up in (False, True):
        topics = {row["key"]["topic"] for row in rows if (len(row["prompt"]) == 4) == follow_up}
        assert topics == set(TOPICS)


def test_first_answers_of_follow_ups_are_true():
    for row in dialogues(3, "train", 300):
        if len(row["prompt"]) == 4:
            question, answer = row["prompt"][1]["content"], row["prompt"][2]["content"]
            topics = [topic for topic, phrase in PHRASES.items() if phrase in question] or ["count"]
            assert mark(answer, {"topic": topics[0], "page": row["key"]["page"]}) == (True, True)


def test_slips_cost_the_style_and_never_the_fact():
    rows = list(dialogues(0, "train", 1000, slip_share=0.3))
    marks = [mark(row["completion"][0]["content"], row["key"]) for row in rows]
    assert all(marked.fact for marked in marks)
    assert 0.25 < sum(not marked.style for marked in marks) / len(marks) < 0.35
    texts = [row["completion"][0]["content"] for row in rows]
    assert any(not text.startswith(COURTESIES) for text in texts)
    assert any(not text.endswith(CLOSINGS) for text in texts)


def test_wording_varies():
    """A teacher of one wording would have no distribution to learn from."""
    answers = [row["completion"][0]["content"] for row in dialogues(0, "train", 400)]
    assert len({re.sub(r"\d+|one|two|three|four|five", "#", answer) for answer in answers}) >= 20


def test_seeds_make_different_worlds():
    worlds = [[row["prompt"][0]["content"] for row in dialogues(seed, "test", 5)] for seed in range(4)]
    assert all(a != b for a, b in pairwise(worlds))


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "dev"},
        {"count": -1},
        {"answers": "medium"},
        {"least": 0},
        {"least": 5, "most": 4},
        {"most": 9},
        {"follow_up_share": 1.5},
        {"slip_share": -0.1},
        {"houses": 3},
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments):
    with pytest.raises(WrongInput) as caught:
        dialogues(**{"seed": 0, "split": "train", "count": 1} | arguments)
    assert "\n" not in str(caught.value)
