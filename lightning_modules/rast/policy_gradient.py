# pyright: strict

"""REINFORCE terms and the divergence penalty of RAST (arXiv 2310.14503, its gradient of the loss).

    ∇L = −E[r ∇log p_φ(z|z0)] − E[(r − b) ∇log p_θ(y|x,z)] + β ∇KL(p_θ ‖ p_θ*)

Shapes: B = passages, K = templates a passage, T = tokens of a question, V = vocabulary.

One convention for all three terms: a sum over the tokens of a question, then the mean over the B·K questions. (The
released recipes sum the policy term over B·K and take the mean of the divergence: their β = 0.5 is 0.5 / (B·K) here.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.rast.advantages import check_same


class PolicyGradientLoss(NamedTuple):
    """Loss and its terms, scalars. Only ``total`` is meant to be differentiated."""

    total: Tensor
    """generator + retriever + β·divergence."""
    generator: Tensor
    retriever: Tensor
    divergence: Tensor
    """KL(p_θ ‖ p_θ*) of a question, nats."""


def generator_loss(logps: Tensor, advantage: Tensor) -> Tensor:
    """REINFORCE: −mean over B·K of advantage · log p_θ(y|x,z).

    Its expected gradient is that of −E[r], templates being drawn as they are (each of the K counts alike).

    Args:
        logps: (B, K), summed over the question's tokens.
        advantage: (B, K).

    Raises:
        ValueError: Shapes disagree.
    """
    check_same("logps and advantage", logps, advantage)
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
    check_same("the retriever's terms", within_logps, cluster_logps, weights, advantage, reward)
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
