"""The settings of RL, checked before hours of fine-tuning that come first."""

from collections.abc import Mapping

from datamodules.wrong_input import WrongInput
from lightning_modules.rast.policy_gradient import check_settings
from lightning_modules.rast.rewards import WeightedRewards, consistency


def check_rl(
    *,
    baseline: str,
    reward_mode: str,
    templates_per_passage: int,
    kl_weight: float,
    reward_weights: Mapping[str, float],
) -> None:
    """Pass what ``RASTModule`` would.

    Raises:
        WrongInput: An unknown baseline or mode, too few templates, or a weight below 0.
    """
    try:
        check_settings(baseline, reward_mode, templates_per_passage, kl_weight)
        WeightedRewards(dict.fromkeys(reward_weights, consistency), reward_weights)
    except ValueError as error:
        keys = "baseline=, templates_per_passage=, kl_weight=, diversity_weight="
        raise WrongInput(str(error), "settings of RL", f"see {keys}") from error
