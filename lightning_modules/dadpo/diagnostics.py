"""What a batch of pairs is watched by, from its losses.  Pure."""

from torch import Tensor

from lightning_modules.dadpo.loss import DaDPOLoss


def diagnostics(result: DaDPOLoss, policy: tuple[Tensor, Tensor], lengths: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Scalars, means over the batch's pairs where not said otherwise.

    Args:
        result: Losses of B pairs.
        policy: Log-probabilities (B,) of chosen and rejected responses.
        lengths: Their tokens (B,).
    """
    target = result.target_margin.float()
    low, middle, high = target.quantile(target.new_tensor([0.1, 0.5, 0.9]))
    return {
        "margin": result.margin.mean(),
        "ref_reward_margin": result.ref_reward_margin.mean(),
        "teacher_reward_margin": result.teacher_reward_margin.mean(),
        "chosen_reward": result.chosen_reward.mean(),
        "rejected_reward": result.rejected_reward.mean(),
        "accuracy": result.accuracy.mean(),
        "target_margin": target.mean(),
        "target_margin_p10": low,
        "target_margin_p50": middle,
        "target_margin_p90": high,
        "saturated_share": result.saturated.mean(),
        "chosen_logps": policy[0].detach().mean(),
        "rejected_logps": policy[1].detach().mean(),
        "chosen_tokens": lengths[0].mean(),
        "rejected_tokens": lengths[1].mean(),
    }
