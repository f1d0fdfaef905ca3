# pyright: strict

"""The daDPO loss and its named diagnostics (arXiv 2506.15717).

With Δm = log m(y_t|x) − log m(y_s|x) for a model m, chosen y_t and rejected y_s (each log-probability summed over
the response, end-of-turn token included), B = β1 + β2 and s = β2 / B:

    u = B·Δθ − β1·Δref − β2·Δte          L = −log σ(u)                    (Eq. 10)
      = B·(Δθ − Δref) − β2·δ_te,         δ_te = Δte − Δref

That is DPO with β = B whose every pair has a target margin β2·δ_te, set by the teacher's distribution.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

SATURATION = math.log(99.0)
"""|u| beyond which σ(u) is within 1 % of 0 or 1: the pair's weight in the gradient no longer tells it from others."""


class DaDPOLoss(NamedTuple):
    """Loss and diagnostics, each (B,) over the pairs of a batch, in nats where not said otherwise."""

    loss: Tensor
    """−log σ(margin). The only field that carries a gradient."""
    margin: Tensor
    """u of Eq. 10."""
    ref_reward_margin: Tensor
    """β1·(Δθ − Δref): the part of u that the reference holds."""
    teacher_reward_margin: Tensor
    """β2·(Δθ − Δte): the part of u that the teacher holds."""
    chosen_reward: Tensor
    """B·log π_θ − β1·log π_ref − β2·log π_te of the chosen response: its implicit reward."""
    rejected_reward: Tensor
    """The same of the rejected response. ``margin`` is the difference of the two."""
    target_margin: Tensor
    """β2·δ_te: what the teacher's distribution asks of this pair, whatever the policy."""
    accuracy: Tensor
    """1.0 where the chosen response has the larger implicit reward."""
    saturated: Tensor
    """1.0 where |margin| exceeds ``SATURATION``."""


def check_betas(beta_ref: float, beta_teacher: float) -> None:
    """Raise ValueError unless β1 ≥ 0, β2 ≥ 0 and β1 + β2 > 0."""
    if not (beta_ref >= 0 and beta_teacher >= 0 and 0 < beta_ref + beta_teacher < math.inf):
        raise ValueError(
            f"beta_ref and beta_teacher must not be negative and their sum must be positive, "
            f"got {beta_ref} and {beta_teacher}"
        )


def dadpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    teacher_chosen_logps: Tensor,
    teacher_rejected_logps: Tensor,
    *,
    beta_ref: float,
    beta_teacher: float,
) -> DaDPOLoss:
    """DaDPO loss of a batch of pairs (arXiv 2506.15717, Eq. 10).

    ``beta_teacher=0`` is DPO (dDPO in the paper); ``beta_ref=0`` is DPO with the teacher as the reference.

    Args:
        policy_chosen_logps: (B,) log π_θ of the chosen responses, summed over tokens.
        policy_rejected_logps: (B,) of the rejected ones.
        ref_chosen_logps: (B,) log π_ref.
        ref_rejected_logps: (B,) log π_ref.
        teacher_chosen_logps: (B,) log π_te.
        teacher_rejected_logps: (B,) log π_te.
        beta_ref: β1, weight of KL(π_θ ‖ π_ref).
        beta_teacher: β2, weight of KL(π_θ ‖ π_te).

    Returns:
        The loss of each pair (not yet averaged) with its diagnostics, detached.

    Raises:
        ValueError: Shapes differ, or the betas are not both ≥ 0 with a positive sum.
    """
    check_betas(beta_ref, beta_teacher)
    shapes = {
        tuple(t.shape)
        for t in (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps)
        + (ref_rejected_logps, teacher_chosen_logps, teacher_rejected_logps)
    }
    if len(shapes) != 1:
        raise ValueError(f"log-probabilities must have one shape (B,), got {sorted(shapes)}")
    total = beta_ref + beta_teacher
    chosen_reward = total * policy_chosen_logps - beta_ref * ref_chosen_logps - beta_teacher * teacher_chosen_logps
    rejected_reward = (
        total * policy_rejected_logps - beta_ref * ref_rejected_logps - beta_teacher * teacher_rejected_logps
    )
    margin = chosen_reward - rejected_reward
    policy_delta = (policy_chosen_logps - policy_rejected_logps).detach()
    ref_delta = (ref_chosen_logps - ref_rejected_logps).detach()
    teacher_delta = (teacher_chosen_logps - teacher_rejected_logps).detach()
    return DaDPOLoss(
        loss=-F.logsigmoid(margin),
        margin=margin.detach(),
        ref_reward_margin=beta_ref * (policy_delta - ref_delta),
        teacher_reward_margin=beta_teacher * (policy_delta - teacher_delta),
        chosen_reward=chosen_reward.detach(),
        rejected_reward=rejected_reward.detach(),
        target_margin=beta_teacher * (teacher_delta - ref_delta),
        accuracy=(margin.detach() > 0).to(margin.dtype),
        saturated=(margin.detach().abs() > SATURATION).to(margin.dtype),
    )


def overshoot_factor(beta_ref: float, beta_teacher: float) -> float:
    """How far past the reference, in units of δ_te, the settings ask the student to go: s + 1/B.

    With y_t ~ π_te and y_s ~ π_ref at temperature 1 the population optimum of the loss is
    Δθ = Δref + (s + 1/B)·δ_te, so 1 lands on the teacher's margins and 10 goes far past them.

    Raises:
        ValueError: The betas are not both ≥ 0 with a positive sum.
    """
    check_betas(beta_ref, beta_teacher)
    total = beta_ref + beta_teacher
    return beta_teacher / total + 1 / total
