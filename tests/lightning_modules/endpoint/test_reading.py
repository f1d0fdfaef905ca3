"""What a server says of a prompt: read right, or refused."""

import math

import pytest

from lightning_modules.endpoint.reading import NO_PROBABILITY, response_token_logps

IDS = [5, 7, 7, 9, 2]
NAMED = [None] + [{str(token): {"logprob": -float(i)}, "0": {"logprob": -0.1}} for i, token in enumerate(IDS) if i]
ECHOED = [None, -1.0, -2.0, -3.0, -4.0, -0.25]


def named(listed):
    return {"choices": [{"prompt_logprobs": listed}]}


def echoed(listed, **usage):
    return {"choices": [{"logprobs": {"token_logprobs": listed}}]} | ({"usage": usage} if usage else {})


OF_TOKENS = [-1.0, -2.0, -3.0, -4.0]
"""Of the second token on; the first has none."""


@pytest.mark.parametrize("prompt_length", [1, 3, 4, 5])
def test_the_responses_tokens_are_read_and_no_others(prompt_length):
    expected = OF_TOKENS[prompt_length - 1 :]
    assert response_token_logps("prompt_logprobs", named(NAMED), IDS, prompt_length) == expected
    assert response_token_logps("echo", echoed(ECHOED), IDS, prompt_length) == expected
    assert response_token_logps("echo", echoed(ECHOED, prompt_tokens=5), IDS, prompt_length) == expected
    assert response_token_logps("echo", echoed(ECHOED[:-1], prompt_tokens=5), IDS, prompt_length) == expected


def changed(place, entry):
    return named([*NAMED[:place], entry, *NAMED[place + 1 :]])


WRONG = {
    "too few": ("prompt_logprobs", named(NAMED[:-1]), "of 4 tokens, 5 were sent"),
    "too many": ("prompt_logprobs", named([None, *NAMED]), "of 6 tokens, 5 were sent"),
    "another token in the response": ("prompt_logprobs", changed(3, {"8": {"logprob": -1.0}}), "token 9 at place 3"),
    "another token in the prompt": ("prompt_logprobs", changed(1, {"8": {"logprob": -1.0}}), "token 7 at place 1"),
    "none of a token": ("prompt_logprobs", changed(2, None), "NoneType"),
    "a word": ("prompt_logprobs", changed(2, {"7": {"logprob": "-1"}}), "'-1'"),
    "impossible at vLLM": ("prompt_logprobs", changed(4, {"2": {"logprob": NO_PROBABILITY}}), "no probability"),
    "no number": ("prompt_logprobs", changed(4, {"2": {"logprob": math.nan}}), "no probability"),
    "not the field": ("prompt_logprobs", echoed(ECHOED), "no `prompt_logprobs`"),
    "no choice": ("prompt_logprobs", {"choices": []}, "0 answers"),
    "no object": ("prompt_logprobs", [], "list"),
    "echo: no echo": ("echo", echoed([-0.25]), "of 1 tokens"),
    "echo: a first token of the server's own": ("echo", echoed([None, *ECHOED], prompt_tokens=6), "of 7 tokens"),
    "echo: the same, uncounted": ("echo", echoed([None, *ECHOED]), "of 7 tokens"),
    "echo: too short by what may have been the last": ("echo", echoed(ECHOED[:-1]), "of 5 tokens"),
    "echo: none": ("echo", named(NAMED), "NoneType"),
    "echo: impossible": ("echo", echoed([*ECHOED[:4], -math.inf, -1.0]), "no probability"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_a_score_of_these_tokens_is_none(case):
    protocol, answer, said = WRONG[case]
    with pytest.raises(ValueError, match=said):
        response_token_logps(protocol, answer, IDS, 3)
