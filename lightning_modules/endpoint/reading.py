# pyright: strict

"""From what a server says of a prompt's tokens to the log-probability of a response, or a reason why there is none.

Both readings raise ValueError where the server has read other tokens than it was sent: a sum over them would be a
plausible number of another text.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

NO_PROBABILITY = -9999.0
"""Stands for −∞ at vLLM, whose JSON has no infinities."""


def request_fields(protocol: str) -> dict[str, Any]:
    """What asks for the log-probabilities of a prompt's tokens. One is made besides: not all servers take 0."""
    asked: dict[str, Any] = {"prompt_logprobs": 1} if protocol == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    return {"max_tokens": 1, "temperature": 1.0} | asked


def response_token_logps(protocol: str, answer: object, ids: Sequence[int], prompt_length: int) -> list[float]:
    """Log-probability of each of ``ids[prompt_length:]`` given those before it (nats).

    Args:
        protocol: ``prompt_logprobs`` (vLLM's field: each token is named, and checked) or ``echo`` (the older form, of
            several servers: only the number of tokens can be checked).
        answer: The server's JSON.
        ids: The token ids that were sent as prompt.
        prompt_length: How many of them are not of the response; at least 1.

    Raises:
        ValueError: The server gives no log-probabilities, or not of these tokens.
    """
    body: Mapping[str, Any] = _mapping(answer)
    choices: Sequence[Any] = body.get("choices") or []
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} answers to one prompt")
    choice: Mapping[str, Any] = _mapping(choices[0])
    if protocol == "prompt_logprobs":
        logps = _named(choice.get("prompt_logprobs"), ids)
    else:
        logps = _echoed(choice.get("logprobs"), body.get("usage"), len(ids))
    of_response = logps[prompt_length:]
    for place, logp in enumerate(of_response, start=prompt_length):
        if not math.isfinite(logp) or logp <= NO_PROBABILITY:
            raise ValueError(f"no probability ({logp}) for token {ids[place]} at place {place}")
    return of_response


def _named(listed: object, ids: Sequence[int]) -> list[float]:
    """``[None, {"17": {"logprob": …}, …}, …]``: nothing is said of the first token."""
    if not isinstance(listed, list):
        raise ValueError("it has no `prompt_logprobs`")
    entries = cast(list[Any], listed)
    if len(entries) != len(ids):
        raise ValueError(f"log-probabilities of {len(entries)} tokens, {len(ids)} were sent")
    logps = [0.0]
    for place, token in enumerate(ids[1:], start=1):
        entry: Mapping[str, Any] = _mapping(entries[place])
        if str(token) not in entry:
            raise ValueError(f"token {token} at place {place} is another there: {', '.join(entry)}")
        logps.append(_number(_mapping(entry[str(token)]).get("logprob")))
    return logps


def _echoed(listed: object, usage: object, count: int) -> list[float]:
    """``{"token_logprobs": [None, …]}``, with that of the token that was made behind the prompt's."""
    values: Any = _mapping(listed).get("token_logprobs")
    if not isinstance(values, list):
        raise ValueError("it has no `logprobs.token_logprobs`")
    entries = cast(list[Any], values)
    counted: Any = None if usage is None else _mapping(usage).get("prompt_tokens")
    expected = (count + 1,) if counted is None else (count, count + 1)  # some leave out what they made
    if counted not in (None, count) or len(entries) not in expected:
        raise ValueError(f"log-probabilities of {len(entries)} tokens, {count} were sent and one made")
    return [0.0, *(_number(value) for value in entries[1:count])]


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{type(value).__name__} where an object belongs")
    return cast(Mapping[str, Any], value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} where a log-probability belongs")
    return float(value)
