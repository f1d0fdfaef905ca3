"""What is asked of vLLM, and which answers are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.vllm.reading import answer_tokens, request_fields, seed_of

PROMPT, STOPS, MOST, VOCABULARY = [3, 4, 5], [1, 2], 6, 50


def answer(tokens, reason, **fields):
    choice = {"index": 0, "token_ids": tokens, "prompt_token_ids": PROMPT, "finish_reason": reason}
    return {"choices": [choice | fields]}


def read(told):
    return answer_tokens(told, PROMPT, STOPS, MOST, VOCABULARY)


@given(st.lists(st.integers(3, VOCABULARY - 1), max_size=MOST - 1), st.sampled_from([1, 2, None]))
def test_an_answer_is_its_tokens_with_the_one_that_ends_it(body, end):
    tokens = [*body, end] if end is not None else [*body, 7]
    assert read(answer(tokens, "stop" if end is not None else "length")) == tokens


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("<html>", "str where an object belongs"),
        ({"choices": []}, "one answer to one prompt"),
        ({"choices": [{}, {}]}, "one answer to one prompt"),
        ({"choices": [{"text": "Hi", "finish_reason": "stop"}]}, "since 0.10.2"),
        (answer([7, 1], "stop", prompt_token_ids=[3, 4]), "another prompt"),
        (answer([7, 1], "stop", prompt_token_ids=None), "no list of token ids"),
        (answer(None, "stop"), "no list of token ids"),
        (answer([7, "1"], "stop"), "no list of token ids"),
        (answer([7, True], "stop"), "no list of token ids"),
        (answer([], "length"), "0 tokens"),
        (answer([7] * 7, "length"), "7 tokens"),
        (answer([7, 50], "length"), "token 50 is none"),
        (answer([-1], "length"), "token -1 is none"),
        (answer([7, 1, 8, 2], "stop"), "behind the end"),
        (answer([7, 8], "stop"), "another reason ('stop')"),
        (answer([7, 1], "length"), "another reason ('length')"),
        (answer([7], "abort"), "another reason ('abort')"),
    ],
)
def test_an_answer_that_cannot_be_true_is_refused(told, said):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read(told)
    assert said in str(refused.value)


@given(st.integers(0, 2**64 - 1))
def test_every_key_gives_a_seed_that_vllm_takes(key):
    assert 0 <= seed_of(key) < 2**63  # −1 would be no seed at all


def test_all_of_the_key_but_one_bit_is_in_the_seed():
    assert len({seed_of(1 << bit) for bit in range(64)}) == 64
    assert seed_of(2**64 - 1) == 2**63 - 1


def test_rows_without_a_token_are_kept_from_being_drawn():
    settings = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_new_tokens": 9, "stops": [1, 2]}
    fields = request_fields(**settings, unused=range(50, 52))
    assert fields.pop("logit_bias") == {"50": -100.0, "51": -100.0}
    assert fields == request_fields(**settings, unused=range(50, 50))
    assert fields == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 9,
        "stop_token_ids": [1, 2],
        "return_token_ids": True,
    }
