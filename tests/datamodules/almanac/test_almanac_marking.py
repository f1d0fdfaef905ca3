import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.almanac import dialogues, mark
from datamodules.almanac.marking import CLOSINGS, COURTESIES, PHRASES
from datamodules.almanac.questions import TOPICS

PAGE = {"cheapest": "4", "dearest": "15", "oldest": "1825", "youngest": "1835", "count": "three"}
KEY = {"topic": "cheapest", "page": PAGE}
ROWS = list(dialogues(7, "test", 60, "short")) + list(dialogues(7, "test", 60, "long"))
VALUES = re.compile(r"\b(?:\d+|one|two|three|four|five)\b")


@given(st.sampled_from(ROWS), st.data())
def test_any_number_changed_makes_the_fact_false(row, data):
    answer = row["completion"][0]["content"]
    place = data.draw(st.sampled_from(list(VALUES.finditer(answer))))
    old = place.group()
    choices = ["1", "99", "1999"] if old.isdigit() else ["seven", "nine"]
    changed = answer[: place.start()] + data.draw(st.sampled_from(choices)) + answer[place.end() :]
    marked = mark(changed, row["key"])
    assert not marked.fact
    assert marked.style


@given(st.sampled_from(ROWS), st.sampled_from(["courtesy", "closing"]))
def test_without_courtesy_or_closing_the_style_is_wrong_and_the_fact_still_right(row, part):
    answer = row["completion"][0]["content"]
    for phrase in COURTESIES if part == "courtesy" else CLOSINGS:
        answer = answer.replace(phrase, "").strip()
    assert mark(answer, row["key"]) == (True, False)


@given(st.text())
def test_any_text_can_be_marked(text):
    assert mark(text, KEY).fact in (True, False)


@pytest.mark.parametrize(
    ("answer", "fact", "style"),
    [
        ("Gladly. The lowest price is 4 crowns. Good day!", True, True),
        ("of course. the LOWEST price is 4 crowns. good day!", True, False),
        ("Gladly. The lowest price is 4. Good day!", True, False),
        ("Gladly. The lowest price is 5 crowns. Good day!", False, True),
        ("Gladly. The lowest price is not 4 crowns. Good day!", False, True),
        ("Gladly. The lowest price is 4 or 5 crowns. Good day!", False, True),
        ("Gladly. The highest price is 15 crowns. Good day!", False, True),  # true, but not what was asked
        ("Gladly. It is 4 crowns. Good day!", False, True),  # a number about nothing
        ("Gladly. Good day!", False, True),
        ("", False, False),
        ("Gladly. The oldest house is of 1825. So the lowest price is 4 crowns. Good day!", True, True),
        ("Gladly. The oldest house is of 1830. So the lowest price is 4 crowns. Good day!", False, True),
        ("Gladly. The lowest price is 4 crowns. So the highest price is 15 crowns. Good day!", False, True),
        ("Gladly. The lowest price is 4 crowns and the highest price is 15 crowns. Good day!", True, True),
        ("Gladly. The lowest price is 15 crowns and the highest price is 4 crowns. Good day!", False, True),
    ],
)
def test_hand_marked_answers(answer, fact, style):
    assert mark(answer, KEY) == (fact, style)


def test_the_rule_knows_the_words_of_the_questions():
    assert {name: topic.phrase for name, topic in TOPICS.items()} == PHRASES
