# pyright: strict

"""What vLLM is asked for, and the tokens that it answers, or a reason why they cannot be taken."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

NEVER = -100.0
"""Added to a logit, the least that vLLM takes: e^−100 of the probability, before the temperature."""
MOST_BIASED = 1024
"""Tokens whose logits vLLM changes in a request, at most."""


def seed_of(key: int) -> int:
    """The key's upper 63 bits: seeds of vLLM are signed, and −1 stands for none."""
    return key >> 1


def request_fields(
    *,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    stops: Sequence[int],
    unused: Sequence[int],
) -> dict[str, Any]:
    """Fields of every request, besides the prompt and the seed.

    Args:
        temperature: 0 takes the likeliest.
        top_p: 1 keeps all.
        top_k: 0 keeps all.
        max_new_tokens: Tokens of an answer, at most.
        stops: Tokens that end a turn.
        unused: Vocabulary rows that stand for no token; at most ``MOST_BIASED``.
    """
    fields: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_tokens": max_new_tokens,
        "stop_token_ids": list(stops),
        "return_token_ids": True,
    }
    return fields | ({"logit_bias": {str(token): NEVER for token in unused}} if unused else {})


def answer_tokens(answer: object, prompt: Sequence[int], stops: Sequence[int], most: int, vocabulary: int) -> list[int]:
    """The token ids of one answer, the one that ends the turn included.

    Args:
        answer: The server's JSON.
        prompt: What it was asked.
        stops: Tokens that end a turn.
        most: Tokens of an answer, at most.
        vocabulary: Tokens that there are.

    Raises:
        ValueError: It answers another prompt, in other tokens, or does not say so.
    """
    choices: Any = _mapping(answer).get("choices")
    if not isinstance(choices, list) or len(cast(list[Any], choices)) != 1:
        raise ValueError("it does not give one answer to one prompt")
    choice = _mapping(cast(list[Any], choices)[0])
    if "token_ids" not in choice:
        raise ValueError("it gives no token ids: vLLM does since 0.10.2")
    if _ids(choice.get("prompt_token_ids")) != list(prompt):
        raise ValueError("it has read another prompt than it was sent")
    tokens, reason = _ids(choice["token_ids"]), choice.get("finish_reason")
    if not 0 < len(tokens) <= most:
        raise ValueError(f"{len(tokens)} tokens, asked for were 1 to {most}")
    if unknown := [token for token in tokens if not 0 <= token < vocabulary]:
        raise ValueError(f"token {unknown[0]} is none of the tokenizer's {vocabulary}")
    if any(token in stops for token in tokens[:-1]):
        raise ValueError("it went on behind the end of the turn")
    if reason != ("stop" if tokens[-1] in stops else "length"):
        raise ValueError(f"it ended for another reason ({reason!r}) than its last token, {tokens[-1]}, tells")
    return tokens


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{type(value).__name__} where an object belongs")
    return cast(Mapping[str, Any], value)


def _ids(value: object) -> list[int]:
    listed: Any = value
    if not isinstance(listed, list) or not all(type(one) is int for one in cast(list[Any], listed)):
        raise ValueError("no list of token ids")
    return cast(list[int], listed)
