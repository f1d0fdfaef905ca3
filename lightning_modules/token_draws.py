"""Sampling in which every answer has random numbers of its own: neither its company nor the sampler changes it.

The number for token k of an answer is a hash of the answer's key and k (SplitMix64: Steele et al. 2014,
doi 10.1145/2660193.2660195), and the token is where it falls in the cumulated distribution.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

_BITS, _RANGE = 31, 1 << 31  # of a number: what an int32 holds
_MASK = (1 << 64) - 1


def answer_key(seed: int, row_id: str) -> int:
    """The key of one answer's random numbers, 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {row_id}".encode(), digest_size=8).digest(), "little")


def number(key: int, step: int) -> int:
    """The random number, 0 to 2³¹ − 1, of token ``step`` of an answer."""
    mixed = (key + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) >> (64 - _BITS)


def random_numbers(count: int, device: torch.device) -> Tensor:
    """As many numbers of that range, from torch's own random state."""
    return torch.randint(_RANGE, (count,), device=device)


@dataclass(frozen=True)
class TokenDraws:
    """How a token comes from its logits.

    Args:
        temperature: 0 takes the likeliest.
        top_p: Nucleus; 1 keeps all.
        top_k: 0 keeps all.
        vocabulary: Tokens that there are: padded rows of the head stand for none.
    """

    temperature: float
    top_p: float
    top_k: int
    vocabulary: int

    def choose(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """One token a row.

        Args:
            logits: (N, V) float32.
            numbers: (N,) integers of ``number``; not looked at where the likeliest is taken.

        Returns:
            (N,) int64.
        """
        scores: Any = logits[:, : self.vocabulary]
        if self.temperature == 0:
            return scores.argmax(-1)
        nothing: Any = None  # the warpers ask for the tokens so far, and do not look at them
        if self.temperature != 1:
            scores = TemperatureLogitsWarper(float(self.temperature))(nothing, scores)
        if self.top_k:
            scores = TopKLogitsWarper(self.top_k)(nothing, scores)
        if self.top_p < 1:
            scores = TopPLogitsWarper(float(self.top_p))(nothing, scores)
        cumulated = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
        share = (numbers.to(torch.float64) + 0.5) / _RANGE
        return torch.searchsorted(cumulated, share[:, None] * cumulated[:, -1:], right=True)[:, 0]

    def chosen_alone(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Logits (N, V) of which only the chosen tokens' are finite: whoever decodes greedily takes these."""
        alone = torch.full_like(logits, float("-inf"))
        return alone.scatter_(1, self.choose(logits, numbers)[:, None], 0.0)


class DrawEachRow(LogitsProcessor):
    """For ``generate`` without sampling: draws the next token of each row.

    Args:
        draws: How.
        keys: Of the rows (``answer_key``).
        start: Columns of the prompts.
    """

    def __init__(self, draws: TokenDraws, keys: Sequence[int], start: int):
        self.draws, self.keys, self.start = draws, keys, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See ``TokenDraws.chosen_alone``."""
        step = input_ids.shape[1] - self.start
        numbers = torch.tensor([number(key, step) for key in self.keys], device=scores.device)
        return self.draws.chosen_alone(scores, numbers)


class DrawEachRequest(ContinuousBatchingLogitsProcessor):
    """The same for transformers' continuous batching, in which requests come and go.

    Args:
        draws: How.
        keys: Request → key.
        starts: Request → tokens of its prompt.
    """

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, draws: TokenDraws, keys: dict[str, int], starts: dict[str, int]):
        self.draws, self.keys, self.starts = draws, keys, starts

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Of places that no request takes."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """(requests,) int32. The engine has put a request's position to the end of what it has read by now."""
        states = [request.state for request in requests_with_new_token]
        steps = [(state.request_id, state.position_offset) for state in states]
        made = [number(self.keys.get(name, 0), at - self.starts.get(name, at)) for name, at in steps]  # or a warm-up
        return torch.tensor(made, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """See ``TokenDraws.chosen_alone``."""
        return self.draws.chosen_alone(scores, tensor_arg[: scores.size(0)])
