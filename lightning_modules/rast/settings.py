"""The settings of RL, checked before hours of fine-tuning that come first."""

from collections.abc import Mapping

from datamodules.wrong_input import WrongInput
from lightning_modules.rast.advantages import CONSISTENCY, check_settings
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


def check_rewards(rewards: WeightedRewards, asks_qa: bool, reward_mode: str, name: str) -> None:
    """Pass rewards that stage ``name`` can give.

    Raises:
        WrongInput: One asks a QA model, and there is none; or the mode treats one apart that is not there.
    """
    if not asks_qa and consistency in rewards.terms.values():
        what, setting, mend = "the consistency reward asks a QA model", "qa", "name one, or leave the reward out"
        raise WrongInput(what, f"stage {name}: {setting}", mend)
    if reward_mode == "authors" and CONSISTENCY not in rewards.terms:
        what, mend = f"reward_mode authors needs a reward named {CONSISTENCY}", "add it, or set reward_mode=paper"
        raise WrongInput(what, f"stage {name}: rewards", mend)
