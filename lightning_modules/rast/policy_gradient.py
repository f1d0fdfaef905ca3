# pyright: strict

"""Advantages, REINFORCE terms and the divergence penalty of RAST (arXiv 2310.14503, its gradient of the loss).

    ∇L = −E[r ∇log p_φ(z|z0)] − E[(r − b) ∇log p_θ(y|x,z)] + β ∇KL(p_θ ‖ p_θ*)

Shapes: B = passages, K = templates a passage, T = tokens of a question, V = vocabulary.

One convention for all three terms: a sum over the tokens of a question, then the mean over the B·K questions. (The
released recipes sum the policy term over B·K and take the mean of the divergence: their β = 0.5 is 0.5 / (B·K) here.)
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


class PolicyGradientLoss(NamedTuple):
    """Loss and its terms, scalars. Only ``total`` is meant to be differentiated."""

    total: Tensor
    """generator + retriever + β·divergence."""
    generator: Tensor
    retriever: Tensor
    divergence: Tensor
    """KL(p_θ ‖ p_θ*) of a question, nats."""


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


def generator_loss(logps: Tensor, advantage: Tensor) -> Tensor:
    """REINFORCE: −mean over B·K of advantage · log p_θ(y|x,z).

    Its expected gradient is that of −E[r], templates being drawn as they are (each of the K counts alike).

    Args:
        logps: (B, K), summed over the question's tokens.
        advantage: (B, K).

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same("logps and advantage", logps, advantage)
    return -(advantage.detach() * logps).mean()


def retriever_loss(
    within_logps: Tensor, cluster_logps: Tensor, weights: Tensor, advantage: Tensor, reward: Tensor
) -> Tensor:
    """REINFORCE for templates of which one is drawn a cluster.

        −mean over B of Σ_k w_k (A_k log p(z_k|c_k) + r_k log p(c_k))

    With w_k = p(c_k), shared by the draws of a cluster, this is stratified sampling, and the expected gradient is that
    of −E[r] under p_φ over the whole candidate set. The baseline stays out of the second term: Σ_c p(c) b_c ∇log p(c)
    is not 0 where b_c differs between clusters.

    Args:
        within_logps: (B, K) log p_φ(z_k | z0, c_k).
        cluster_logps: (B, K) log p_φ(c_k | z0), of the cluster's whole mass.
        weights: (B, K), each row summing to 1.
        advantage: (B, K), ``Advantages.retriever``.
        reward: (B, K), ``Advantages.reward``.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same("the retriever's terms", within_logps, cluster_logps, weights, advantage, reward)
    terms = advantage.detach() * within_logps + reward.detach() * cluster_logps
    return -(weights.detach() * terms).sum(1).mean()


def token_divergence(policy_logits: Tensor, frozen_logits: Tensor) -> Tensor:
    """KL(p_θ ‖ p_θ*) of each next-token distribution, over the full vocabulary, differentiable in both.

    Given the tokens before: how θ changes the prefixes that are sampled is left out, as in the released code.

    Args:
        policy_logits: (T, V), T = tokens of all questions, end to end.
        frozen_logits: (T, V), at the same positions.

    Returns:
        (T,), nats, float32 or wider.

    Raises:
        ValueError: Shapes disagree.
    """
    if policy_logits.ndim != 2 or policy_logits.shape != frozen_logits.shape:
        raise ValueError(
            f"logits must both be (T, V), got {tuple(policy_logits.shape)} and {tuple(frozen_logits.shape)}"
        )
    wide = torch.float64 if policy_logits.dtype == torch.float64 else torch.float32
    log_p, log_q = policy_logits.to(wide).log_softmax(-1), frozen_logits.to(wide).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def policy_gradient_loss(
    generator: Tensor, retriever: Tensor, divergence: Tensor, divergence_weight: float
) -> PolicyGradientLoss:
    """The whole loss.

    Args:
        generator: Scalar, of ``generator_loss``.
        retriever: Scalar, of ``retriever_loss``; 0 where the retriever is frozen.
        divergence: (B, K), ``token_divergence`` summed over each question's tokens.
        divergence_weight: β.

    Raises:
        ValueError: Shapes disagree.
    """
    if generator.ndim or retriever.ndim or divergence.ndim != 2:
        raise ValueError("the loss takes two scalars and a (B, K) divergence")
    penalty = divergence.mean()
    return PolicyGradientLoss(generator + retriever + divergence_weight * penalty, generator, retriever, penalty)


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
    _check_same("the parts of the reward", *parts.values(), *(greedy_parts or {}).values())
    return first.shape[0], first.shape[1]


def _check_same(what: str, *tensors: Tensor) -> None:
    if len({tuple(tensor.shape) for tensor in tensors}) != 1 or tensors[0].ndim != 2:
        raise ValueError(f"{what} must all be (B, K), got {', '.join(str(tuple(t.shape)) for t in tensors)}")
