"""The settings of RL and of asking, checked before hours of fine-tuning that come first."""

import math
from collections.abc import Iterable, Mapping, Sequence

from datamodules.wrong_input import WrongInput
from lightning_modules.rast.advantages import CONSISTENCY, check_settings
from lightning_modules.rast.rewards import WeightedRewards, consistency
from lightning_modules.rast.template_index import check_index

TRAINER_CLIP = 1.0
"""What every trainer of the project clips by, unless a user sets another."""


def check_rl(
    *,
    baseline: str,
    reward_mode: str,
    templates_per_passage: int,
    kl_weight: float,
    reward_weights: Mapping[str, float],
    rewards: Iterable[str] | None = None,
    candidates: int | None = None,
    index: str | None = None,
    batch_size: int = 1,
    accumulate: int = 1,
    clip: float = 0.5,
    max_new_tokens: int = 1,
    trainer_clip: float | None = TRAINER_CLIP,
    precision: str | int = "32-true",
    accelerator: str = "cpu",
) -> None:
    """Pass what ``RASTModule`` would.

    Args:
        baseline: As all that are not named here, see ``RASTModule``.
        reward_mode: See there.
        templates_per_passage: See there.
        kl_weight: See there.
        reward_weights: See there.
        rewards: The rewards' names; None: those of the weights.
        candidates: The retriever's, if they are known.
        index: The retriever's.
        batch_size: Passages a batch.
        accumulate: See ``RASTModule``.
        clip: See there.
        max_new_tokens: Of a question.
        trainer_clip: The trainer's own setting, which does not reach a module that clips each part by itself.
        precision: The trainer's.
        accelerator: The trainer's.

    Raises:
        WrongInput: One of them cannot be, or would be ignored.
    """
    try:
        check_settings(baseline, reward_mode, templates_per_passage, kl_weight)
        names = reward_weights if rewards is None else rewards
        WeightedRewards(dict.fromkeys(names, consistency), reward_weights)
    except ValueError as error:
        keys = "baseline=, templates_per_passage=, kl_weight=, diversity_weight=, stage.rl.module.rewards"
        raise WrongInput(str(error), "settings of RL", f"see {keys}") from error
    if candidates is not None and candidates < templates_per_passage:
        what = f"{templates_per_passage} templates are drawn among {candidates} candidates"
        raise WrongInput(what, "candidates, templates_per_passage", "raise candidates= or lower the other")
    _check_least(rl_batch_size=batch_size, rl_accumulate=accumulate, max_new_tokens=max_new_tokens)
    if not clip > 0:
        raise WrongInput(f"clip is {clip}", "rl_clip", "a gradient norm above 0; .inf clips nothing")
    if trainer_clip != TRAINER_CLIP:
        mend = "set rl_clip=, and this for the other stages alone: +stage.vanilla.trainer.gradient_clip_val="
        raise WrongInput(f"{trainer_clip} does not reach stage rl", "trainer.gradient_clip_val", mend)
    if str(precision) in ("16", "16-mixed") and accelerator != "cpu":  # there Lightning takes bfloat16 instead
        raise WrongInput(f"precision {precision} scales gradients", "trainer.precision", "bf16-mixed or 32-true")
    check_index(index)


def check_asking(
    *,
    questions: int,
    methods: Sequence[str],
    hero: str | None,
    known: Sequence[str],
    candidates: int,
    index: str | None,
    batch_size: int,
    max_new_tokens: int,
    diversity_penalty: float,
    no_template_score: float,
) -> None:
    """Pass what ``AskingModule`` and its methods would.

    Args:
        questions: N.
        methods: See ``check_methods``.
        hero: See ``check_methods``.
        known: See ``check_methods``.
        candidates: The retriever's.
        index: The retriever's.
        batch_size: Passages a batch.
        max_new_tokens: Of a question.
        diversity_penalty: Of diverse beam search.
        no_template_score: See ``Styled``.

    Raises:
        WrongInput: One of them cannot be.
    """
    check_methods(methods=methods, hero=hero, known=known)
    _check_least(
        questions=questions, candidates=candidates, generate_batch_size=batch_size, max_new_tokens=max_new_tokens
    )
    if candidates < questions - 1:
        what = f"{questions - 1} templates are chosen among {candidates} candidates"
        raise WrongInput(what, "candidates, questions", "raise candidates= or lower questions=")
    if not 0 <= diversity_penalty < math.inf:
        raise WrongInput(f"the penalty is {diversity_penalty}", "diversity_penalty", "0 or more")
    if not math.isfinite(no_template_score):
        raise WrongInput(f"the score is {no_template_score}", "no_template_score", "a number; scores lie in [-1, 1]")
    check_index(index)


def check_methods(*, methods: Sequence[str], hero: str | None, known: Sequence[str]) -> None:
    """Pass methods that there are, each once, and a hero that there is.

    Args:
        methods: That ask, or are compared.
        hero: Whose questions are the output; one that does not ask now gives none.
        known: All that there are.

    Raises:
        WrongInput: No method, one twice, or one that there is not.
    """
    choose = f"choose of {', '.join(known)}"
    if not methods:
        raise WrongInput("no method is to ask", "methods", choose)
    if len(set(methods)) < len(methods):
        raise WrongInput("a method is named twice", "methods", "name each once")
    for setting, names in (("methods", methods), ("hero", [] if hero is None else [hero])):
        if unknown := [name for name in names if name not in known]:
            raise WrongInput(f"there is no {unknown[0]!r}", setting, choose)


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


def _check_least(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise WrongInput(f"{name} is {value}", name, "1 or more")
