"""From a rollout to the loss: the policy's log-probabilities, the divergence, and the policy gradient's terms."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.language_model import output_head
from lightning_modules.rast.advantages import Advantages, Baseline, RewardMode, advantages
from lightning_modules.rast.like_lengths import groups_of_like_length, pass_tokens
from lightning_modules.rast.policy_gradient import (
    PolicyGradientLoss,
    generator_loss,
    policy_gradient_loss,
    retriever_loss,
    token_divergence,
)
from lightning_modules.rast.rewards import WeightedRewards
from lightning_modules.rast.rollout import Rollout
from lightning_modules.rast.writing import Encoded, sum_by_row
from lightning_modules.seq2seq import IGNORED, encoder_states, label_logits, label_states


class Objective(NamedTuple):
    """How rewards become a loss."""

    rewards: WeightedRewards
    baseline: Baseline
    reward_mode: RewardMode
    kl_weight: float
    train_retriever: bool


def objective(
    how: Objective, policy: PreTrainedModel, reference: PreTrainedModel, rollout: Rollout, vocabulary: int | None
) -> tuple[PolicyGradientLoss, Advantages]:
    """The loss of a rollout.

    The policy decodes from what its encoder made for sampling. The reference encodes the same inputs itself: its
    encoder has other weights as soon as the policy has moved.

    Args:
        how: See ``Objective``.
        policy: p_θ; gradients reach it.
        reference: p_θ*.
        rollout: What was asked by the policy as it is now.
        vocabulary: Rows of the head that the softmax runs over.
    """
    parts, greedy = how.rewards.weighted(rollout.parts), rollout.greedy_parts
    gain = advantages(
        parts,
        None if greedy is None else how.rewards.weighted(greedy),
        baseline=how.baseline,
        reward_mode=how.reward_mode,
    )
    logps, divergence = (sums.view(gain.reward.shape) for sums in _sums(policy, reference, rollout, vocabulary))
    draw = rollout.styles.draw
    of_retriever = torch.zeros((), device=logps.device)
    if how.train_retriever:
        of_retriever = retriever_loss(draw.within_logps, draw.cluster_logps, draw.weights, gain.retriever, gain.reward)
    loss = policy_gradient_loss(generator_loss(logps, gain.generator), of_retriever, divergence, how.kl_weight)
    return loss, gain


def _sums(
    policy: PreTrainedModel, reference: PreTrainedModel, rollout: Rollout, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """Log-probability and divergence (N,) of each question, summed over its tokens."""
    labels = rollout.written.labels
    groups = groups_of_like_length((labels != IGNORED).sum(1).tolist(), pass_tokens(labels.device))
    found = [_sums_of(policy, reference, rollout.encoded.chosen(rows), labels[rows], vocabulary) for rows in groups]
    order = torch.tensor([row for rows in groups for row in rows], device=labels.device).argsort()
    logps, divergences = zip(*found, strict=True)
    return torch.cat(logps)[order], torch.cat(divergences)[order]


def _sums_of(
    policy: PreTrainedModel, reference: PreTrainedModel, encoded: Encoded, labels: Tensor, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """The same of questions (R, T) of like length; T may be wider than the longest."""
    labels, mask = labels[:, : int((labels != IGNORED).sum(1).max())], encoded.attention_mask
    states = label_states(policy, encoded.states, mask, labels)
    logits = label_logits(states, output_head(policy, vocabulary))
    with torch.no_grad():
        theirs = encoder_states(reference, encoded.input_ids, mask)
        frozen = label_logits(label_states(reference, theirs, mask, labels), output_head(reference, vocabulary))
    logps = (
        logits.to(torch.promote_types(logits.dtype, torch.float32))
        .log_softmax(-1)
        .gather(1, states.targets[:, None])
        .squeeze(1)
    )
    per_token = token_divergence(logits, frozen)
    return sum_by_row(logps, states.rows, len(labels)), sum_by_row(per_token, states.rows, len(labels))
