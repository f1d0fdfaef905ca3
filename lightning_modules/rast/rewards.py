# pyright: strict

"""Rewards of a question, and their weighted sum (arXiv 2310.14503: r = r_cons + λ·r_div).

A reward is any callable ``(Asked) -> (N,) tensor``; a config names it with ``_target_`` and gives it a weight.
N = questions: all passages' K of a batch, end to end.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Asked(NamedTuple):
    """What rewards look at; row i of every field belongs to question i."""

    questions: Sequence[str]
    """N questions, as decoded."""
    templates: Sequence[str | None]
    """N templates that they were asked by; None: without one."""
    examples: Sequence[Any]
    """N examples, with ``context``, ``answer`` and ``question``."""
    answer_nlls: Tensor | None
    """(N,) mean token cross-entropy (nats) of the frozen QA model on the gold answer, given passage and question; None
    where there is no QA model."""


RewardFunction = Callable[[Asked], Tensor]


class RewardError(ValueError):
    """A reward gave what is no reward. ``row`` is that of the first such question, where it is one."""

    def __init__(self, what: str, reward: str, row: int | None = None):
        super().__init__(f"reward {reward} {what}")
        self.reward, self.row = reward, row


def consistency(asked: Asked) -> Tensor:
    """r_cons = exp(−mean token cross-entropy of the QA model on the gold answer), in (0, 1].

    Raises:
        ValueError: There is no QA model.
    """
    if asked.answer_nlls is None:
        raise ValueError("consistency asks a QA model, and there is none")
    return (-asked.answer_nlls).exp()


class Diversity:
    """r_div = |y ∩ z| / |y ∪ z| on sets of words, in [0, 1]: how well a question keeps to its template.

    0 without a template, and where neither has a word.

    Args:
        words: A text's words, lower-cased, masks removed, punctuation split off.
    """

    def __init__(self, words: Callable[[str], Set[str]]):
        self.words = words

    def __call__(self, asked: Asked) -> Tensor:
        """(N,) float32."""
        pairs = zip(asked.questions, asked.templates, strict=True)
        return torch.tensor([0.0 if z is None else jaccard(self.words(y), self.words(z)) for y, z in pairs])


def jaccard(a: Set[str], b: Set[str]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 of two empty sets."""
    both = len(a | b)
    return len(a & b) / both if both else 0.0


class WeightedRewards:
    """Named rewards and their weights.

    Args:
        terms: Name → reward.
        weights: Name → weight, at least 0: the same names.

    Raises:
        ValueError: The names differ, there are none, or a weight is negative or no number.
    """

    def __init__(self, terms: Mapping[str, RewardFunction], weights: Mapping[str, float]):
        if not terms or terms.keys() != weights.keys():
            raise ValueError(
                f"rewards {sorted(terms)} and weights {sorted(weights)} must have the same names, and some"
            )
        if wrong := [name for name, weight in weights.items() if not 0 <= weight < math.inf]:
            raise ValueError(f"the weight of reward {wrong[0]} must not be negative, got {weights[wrong[0]]}")
        self.terms, self.weights = dict(terms), {name: float(weights[name]) for name in terms}

    def __call__(self, asked: Asked) -> dict[str, Tensor]:
        """Name → (N,) float32 reward, not yet weighted.

        Raises:
            RewardError: A reward is no (N,) tensor of finite numbers; names the reward, and the row if it is one.
        """
        return {name: _checked(name, term(asked), len(asked.questions)) for name, term in self.terms.items()}

    def weighted(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts times their weights."""
        return {name: self.weights[name] * part for name, part in parts.items()}


def copy_rate(question: str, context: str) -> float:
    """Share of a question's words that stand in its passage, as a monitor: towards 1 it asks nothing any more."""
    words = re.findall(r"\w+", question.lower())
    known = set(re.findall(r"\w+", context.lower()))
    return sum(word in known for word in words) / len(words) if words else 0.0


def _checked(name: str, reward: Any, count: int) -> Tensor:
    if not isinstance(reward, Tensor):
        raise RewardError(f"gave a {type(reward).__name__}, not a tensor", name)
    if reward.shape != (count,):
        raise RewardError(f"gave shape {tuple(reward.shape)} for {count} questions", name)
    reward = reward.detach().float()
    if not reward.isfinite().all():
        row = int((~reward.isfinite()).nonzero()[0])
        raise RewardError(f"is {reward[row].item()} in row {row}", name, row)
    return reward
