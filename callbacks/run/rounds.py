"""Rounds: ``rounds=3`` of one stage, each on data made anew, as stages of their own for the runner to run."""

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.wrong_input import WrongInput

TRAINED = "dadpo"
"""The stage that is done in rounds. The last one keeps its name: it leaves the student."""

Plain = dict[str, Any]
"""A config's content, interpolations as they are written."""


def unrolled(config: DictConfig) -> DictConfig:
    """The config with a stage for every part of every round; as it is, where there is one round or none are known.

    The stages of a round are copies of the experiment's own, with what ``config.round_stages`` puts over them; see
    ``conf/refresh/pairs.yaml``. In ``stages`` they take the place of ``dadpo``, unless one of them is named there.

    Args:
        config: As composed; it is not changed.

    Raises:
        WrongInput: No such number of rounds, or a checkpoint to go on from with several.
    """
    rounds = config.get("rounds", 1)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise WrongInput(f"no such number of rounds: {rounds}", "rounds", "set 1 (pairs as they are) or more")
    if rounds == 1:
        return config
    if config.stage[TRAINED].get("resume") is not None:
        mend = "set rounds=1, or leave it out: a run that was killed goes on by itself"
        raise WrongInput("a checkpoint to go on from does not say of which round", f"stage.{TRAINED}.resume", mend)
    made = round_stages(config, rounds)
    stages = list(config.stages)
    if not any(name in stages for name in made if name != TRAINED):
        stages = [each for name in stages for each in (made if name == TRAINED else [name])]
    config = copy.deepcopy(config)
    with open_dict(config):
        for name, stage in made.items():
            config.stage[name] = OmegaConf.create(stage)
        config.stages = stages
    return config


def round_stages(config: DictConfig, rounds: int) -> dict[str, Plain]:
    """The stages of all rounds by name, in the order in which they are run."""
    renewed = list(config.round_stages.renewed)
    over, stages = _plain(config.round_stages), _plain(config.stage)
    made: dict[str, Plain] = {}
    for number in range(1, rounds + 1):
        if number > 1:
            for name in renewed:
                made[f"{name}_{number}"] = _laid(stages[name], over[name], {"round": number})
        parts = [over["dadpo"], over["first" if number == 1 else "later"], {"round": number}]
        name, parts = (TRAINED, parts) if number == rounds else (f"{TRAINED}_{number}", [*parts, over["handing_on"]])
        made[name] = _laid(stages[TRAINED], *parts)
    return {name: stage | {"name": name} for name, stage in made.items()}


def _plain(config: DictConfig) -> Plain:
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content


def _laid(under: Plain, *over: Plain) -> Plain:
    """Dicts over dicts, key by key; anything else, lists and interpolations too, in place of what is there."""
    made = copy.deepcopy(under)
    for layer in over:
        for key, value in layer.items():
            both = isinstance(made.get(key), dict) and isinstance(value, dict) and "_target_" not in value
            made[key] = _laid(made[key], value) if both else copy.deepcopy(value)
    return made
