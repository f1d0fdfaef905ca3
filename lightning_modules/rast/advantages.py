# pyright: strict

"""Advantages of RAST's questions and templates (arXiv 2310.14503): what multiplies the log-probabilities.

Shapes: B = passages, K = templates a passage.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Baseline = Literal["self_critical", "group", "none"]
RewardMode = Literal["paper", "authors"]
CONSISTENCY = "consistency"
"""The part that ``reward_mode="authors"`` treats apart from all others."""


class Advantages(NamedTuple):
    """What multiplies the log-probabilities, each (B, K), without gradient."""

    generator: Tensor
    """Of the sampled question."""
    retriever: Tensor
    """Of the template's choice among those of its cluster."""
    reward: Tensor
    """r, the sum of the weighted parts; also what the choice of a cluster is worth to the retriever."""


def check_settings(baseline: str, reward_mode: str, count: int, divergence_weight: float) -> None:
    """Raise ValueError unless baseline and mode exist, K suffices and β ≥ 0."""
    if baseline not in ("self_critical", "group", "none"):
        raise ValueError(f"unknown baseline {baseline!r}: self_critical, group or none")
    if reward_mode not in ("paper", "authors"):
        raise ValueError(f"unknown reward_mode {reward_mode!r}: paper or authors")
    if count < 1 or (baseline == "group" and count < 2):
        raise ValueError(f"baseline {baseline} needs {2 if baseline == 'group' else 1} or more templates, got {count}")
    if not 0 <= divergence_weight < float("inf"):
        raise ValueError(f"the divergence's weight must not be negative, got {divergence_weight}")


def advantages(
    parts: Mapping[str, Tensor],
    greedy_parts: Mapping[str, Tensor] | None,
    *,
    baseline: Baseline = "self_critical",
    reward_mode: RewardMode = "paper",
) -> Advantages:
    """Advantages from the weighted parts of the reward.

    ``paper``: r = Σ parts, and the generator's advantage is r − b with

    * ``self_critical``: b = the reward of the greedily decoded question for the same template. It depends on the
      template, so the retriever, as in the paper, gets r without a baseline;
    * ``group``: b = the mean reward of the passage's other K − 1 questions (leave-one-out, RLOO), for both;
    * ``none``: b = 0.

    ``authors``, as the released code does: every part but ``consistency`` counts twice for the generator, the baseline
    is that of ``consistency`` alone, and the advantage is standardised over the batch. The retriever is as above.

    Args:
        parts: Name → (B, K), each times its weight.
        greedy_parts: The same of the greedy questions; with ``self_critical`` only.
        baseline: See above.
        reward_mode: See above.

    Raises:
        ValueError: Shapes or names disagree, or greedy parts are missing or of no use.
    """
    shape = _check_parts(parts, greedy_parts, baseline)
    check_settings(baseline, reward_mode, shape[1], 0.0)
    parts = {name: part.detach() for name, part in parts.items()}
    reward = _total(parts)
    retriever = reward - _leave_one_out(reward) if baseline == "group" else reward
    if reward_mode == "paper":
        return Advantages(reward - _baseline(reward, greedy_parts, baseline), retriever, reward)
    if CONSISTENCY not in parts:
        raise ValueError(f"reward_mode authors needs a part named {CONSISTENCY}, got {', '.join(parts)}")
    consistency = parts[CONSISTENCY]
    greedy = None if greedy_parts is None else {CONSISTENCY: greedy_parts[CONSISTENCY]}
    raw = consistency - _baseline(consistency, greedy, baseline) + 2 * (reward - consistency)
    spread = raw.std(correction=0)
    return Advantages((raw - raw.mean()) / spread if spread > 1e-8 else torch.zeros_like(raw), retriever, reward)


def _total(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _leave_one_out(reward: Tensor) -> Tensor:
    """(B, K): the mean of the other K − 1 of the row."""
    return (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)


def _baseline(reward: Tensor, greedy_parts: Mapping[str, Tensor] | None, baseline: Baseline) -> Tensor:
    if baseline == "group":
        return _leave_one_out(reward)
    return torch.zeros_like(reward) if greedy_parts is None else _total(greedy_parts).detach()


def _check_parts(
    parts: Mapping[str, Tensor], greedy_parts: Mapping[str, Tensor] | None, baseline: Baseline
) -> tuple[int, int]:
    if (greedy_parts is not None) != (baseline == "self_critical"):
        raise ValueError(
            f"baseline {baseline} {'needs' if greedy_parts is None else 'has no use for'} greedy questions"
        )
    if not parts or (greedy_parts is not None and parts.keys() != greedy_parts.keys()):
        raise ValueError(
            f"parts {sorted(parts)} and greedy parts {sorted(greedy_parts or {})} must be the same, and some"
        )
    first = next(iter(parts.values()))
    if first.ndim != 2:
        raise ValueError(f"a part of the reward must be (B, K), got {tuple(first.shape)}")
    check_same("the parts of the reward", *parts.values(), *(greedy_parts or {}).values())
    return first.shape[0], first.shape[1]


def check_same(what: str, *tensors: Tensor) -> None:
    """Raise ValueError unless all are (B, K) of one size."""
    if len({tuple(tensor.shape) for tensor in tensors}) != 1 or tensors[0].ndim != 2:
        raise ValueError(f"{what} must all be (B, K), got {', '.join(str(tuple(t.shape)) for t in tensors)}")
