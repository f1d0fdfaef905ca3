"""Levels of load: what is asked at each, and what is refused."""

import json

import pytest

from datamodules.almanac import dialogues
from datamodules.endpoint_load import EndpointLoadDataModule
from datamodules.wrong_input import WrongInput


def rows(count):
    return [{"prompt": f"question {n}"} for n in range(count)]


def levels(data, **settings):
    module = EndpointLoadDataModule(data, **settings)
    module.setup("test")
    return list(module.test_dataloader())


def asked(level):
    return [turns[-1]["content"] for turns in level.conversations]


def test_a_level_a_rate_each_with_prompts_of_its_own():
    first, second = levels(rows(100), rates=[0.5, 2], requests=3, warmup_requests=1)
    assert (first.name, first.rate, first.concurrency) == ("rate-0.5", 0.5, None)
    assert (second.name, second.rate, second.requests, second.warmup_requests) == ("rate-2", 2, 3, 1)
    assert asked(first) == [f"question {n}" for n in range(4)]
    assert asked(second) == [f"question {n}" for n in range(4, 8)]
    assert first.conversations[0] == [{"role": "user", "content": "question 0"}]


def test_few_prompts_are_asked_again():
    first, second = levels(rows(3), concurrency=[1, 2], requests=4, warmup_requests=0)
    assert (first.name, first.rate, second.concurrency) == ("concurrency-1", None, 2)
    assert asked(first) == ["question 0", "question 1", "question 2", "question 0"]
    assert asked(second)[0] == "question 1"


def test_no_more_rows_are_read_than_are_asked(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(2)) + "no JSON\n")
    assert asked(levels(str(path), rates=[1], requests=1, warmup_requests=1)[0]) == ["question 0", "question 1"]
    with pytest.raises(WrongInput, match="prompts.jsonl:3"):
        levels(str(path), rates=[1], requests=2, warmup_requests=1)


def test_conversations_keep_their_turns():
    (level,) = levels(dialogues(0, "test", 50), rates=[1], requests=20)
    roles = [[turn["role"] for turn in turns] for turns in level.conversations]
    assert all(turns[0] == "system" and turns[-1] == "user" for turns in roles)
    assert max(map(len, roles)) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no load to make"),
        ({"rates": [1], "concurrency": [1]}, "rates=null"),
        ({"rates": [0]}, "a rate of 0"),
        ({"rates": [float("inf")]}, "a rate of inf"),
        ({"rates": ["fast"]}, "a rate of 'fast'"),
        ({"rates": [2, 2.0]}, "rate-2 is there twice"),
        ({"rates": [1], "requests": 0}, "0 requests"),
        ({"rates": [1], "warmup_requests": -1}, "after -1"),
        ({"concurrency": [21]}, "21 requests at a time"),
        ({"concurrency": [1.5]}, "1.5 requests at a time"),
    ],
)
def test_what_is_no_load_is_refused(settings, said):
    with pytest.raises(WrongInput, match=said):
        EndpointLoadDataModule(rows(1), **settings)


def test_no_prompts_are_refused():
    with pytest.raises(WrongInput, match="there are no prompts"):
        levels([], rates=[1])
