"""The settings of daDPO and its variants, checked before hours of sampling and scoring that come first."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from lightning import Trainer
from torch import Tensor

from datamodules.batches import PairScores
from datamodules.wrong_input import WrongInput
from lightning_modules.dadpo.loss import DaDPOLoss, check_betas, dadpo_loss, overshoot_factor
from lightning_modules.dadpo.variants import SHAPES, delta_te, per_token, ramp, scaled_beta_teacher

log = logging.getLogger(__name__)
Both = tuple[Tensor, Tensor]
"""(B,) of the chosen and of the rejected responses."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Variants:
    """What is done otherwise than in the paper; by default nothing. Formulas and sources: ``variants.py``.

    Args:
        length_normalised: Means over tokens instead of sums, of all three models. Start from betas larger by the usual
            length of a response.
        sft_weight: α of the cross-entropy on the chosen responses that is added to the loss.
        beta_schedule: ``constant``; or ``linear`` or ``cosine``: β2 rises over the run to what it is set to.
        beta_teacher_start: Where it rises from (default: 0). β1 makes up for what β2 lacks.
        target_scale: The median of |β2·δ_te| over the training pairs, in nats: β2 is set so, β1 is the rest of
            B = β1 + β2. Needs cached scores. None: betas as given.

    Raises:
        WrongInput: A setting that cannot be, or that would have no effect.
    """

    length_normalised: bool = False
    sft_weight: float = 0.0
    beta_schedule: str = "constant"
    beta_teacher_start: float | None = None
    target_scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not isinstance(self.length_normalised, bool):
            raise WrongInput(f"got {self.length_normalised!r}", "length_normalised", "true or false")
        if not _number(self.sft_weight) or self.sft_weight < 0:
            raise WrongInput(f"no such weight: {self.sft_weight}", "sft_weight", "set 0 (off) or more, e.g. 1.0")
        if self.beta_schedule not in SHAPES:
            raise WrongInput(f"unknown schedule {self.beta_schedule!r}", "beta_schedule", f"one of {', '.join(SHAPES)}")
        if self.beta_teacher_start is not None:
            if not _number(self.beta_teacher_start) or self.beta_teacher_start < 0:
                raise WrongInput(f"got {self.beta_teacher_start}", "beta_teacher_start", "set 0 or more")
            if self.beta_schedule == "constant":
                mend = "set beta_schedule=linear or cosine, or leave it out"
                raise WrongInput("a constant β2 starts nowhere else", "beta_teacher_start", mend)
        if self.target_scale is not None and (not _number(self.target_scale) or self.target_scale <= 0):
            raise WrongInput(f"no such scale: {self.target_scale} nats", "target_scale", "set more than 0, e.g. 2.0")

    def betas(self, beta_ref: float, beta_teacher: float, done: float) -> tuple[float, float]:
        """β1 and β2 when a share ``done`` of the run is done; their sum is the settings'."""
        now = ramp(self.beta_schedule, self.beta_teacher_start or 0.0, beta_teacher, done)
        return max(0.0, beta_ref + (beta_teacher - now)), now

    def losses(self, policy: Both, frozen: PairScores, lengths: Both, betas: tuple[float, float]) -> DaDPOLoss:
        """``dadpo_loss`` of sums, or of means over tokens.

        Args:
            policy: Log-probabilities, summed over tokens.
            frozen: The same of reference and teacher.
            lengths: Tokens of the responses.
            betas: β1 and β2.
        """
        columns = (*policy, *frozen)
        if self.length_normalised:
            columns = tuple(per_token(logps, lengths[side % 2]) for side, logps in enumerate(columns))
        return dadpo_loss(*columns, beta_ref=betas[0], beta_teacher=betas[1])

    def delta_te(self, scores: PairScores, lengths: Both) -> Tensor:
        """δ_te (n,) of scored pairs, in what the loss is made of: sums, or means over tokens."""
        return delta_te(scores, lengths if self.length_normalised else None)

    def overshoot_factor(self, betas: tuple[float, float], lengths: Both) -> float:
        """See ``overshoot_factor``; of means over tokens s + T/B, with T the mean length (exact where all have it)."""
        tokens = sum(each.double().mean().item() for each in lengths) / 2 if self.length_normalised else 1.0
        return overshoot_factor(*(beta / tokens for beta in betas))

    def scaled(self, beta_ref: float, beta_teacher: float, data: Any) -> tuple[float, float]:
        """The betas that ``target_scale`` asks for on this data; their sum stays.

        Args:
            beta_ref: As set.
            beta_teacher: As set.
            data: The trainer's datamodule, with ``train_scores()`` and ``train_lengths()``.

        Raises:
            WrongInput: No scores, none that differ, or a β2 above β1 + β2.
        """
        assert self.target_scale is not None
        if not getattr(data, "frozen", None):
            raise WrongInput("no scores before the first step", "target_scale", "use cached scores, or leave it out")
        try:
            found = scaled_beta_teacher(self.delta_te(data.train_scores(), data.train_lengths()), self.target_scale)
        except ValueError as error:
            raise WrongInput(str(error), "target_scale", "choose another teacher, or leave it out") from error
        total = beta_ref + beta_teacher
        if found > total:
            raise WrongInput(
                f"{self.target_scale} nats need beta_teacher={found:.4g}, and beta_ref + beta_teacher is {total:.4g}",
                "target_scale",
                f"set at most {self.target_scale * total / found:.4g}, or raise beta_ref=",
            )
        log.info("beta_teacher = %.4g, beta_ref = %.4g, by target_scale", found, total - found)
        return total - found, found


PAPER = Variants()


def share_done(trainer: Trainer | None, part: tuple[int, int] = (1, 1)) -> float:
    """The share of the optimizer steps that are done: 0 at the first, 1 at the last and where nothing is trained.

    Args:
        trainer: Of the training.
        part: See ``PolicyModule``: the share is of the whole.
    """
    if trainer is None or trainer.state.fn != "fit":
        return 1.0
    (number, parts), steps = part, trainer.estimated_stepping_batches
    return min(1.0, ((number - 1) * steps + trainer.global_step) / max(1, parts * steps - 1))


def check_dadpo(*, beta_ref: float, beta_teacher: float, mode: str, variants: Variants, stage: str = "dadpo") -> None:
    """Pass what ``DaDPOModule`` would, as far as it is known before there are scores.

    Raises:
        WrongInput: Betas that cannot be, an unknown mode, a start of β2 above β1 + β2, or ``target_scale`` live.
    """
    where = f"{stage}: beta_ref, beta_teacher"
    for beta in (beta_ref, beta_teacher):
        if not _number(beta):
            raise WrongInput(f"got {beta!r}", where, "give numbers")
    try:
        check_betas(beta_ref, beta_teacher)
    except ValueError as error:
        raise WrongInput(str(error), where, "start from 0.05 and 0.05") from error
    if mode not in ("cached", "live"):
        raise WrongInput(f"unknown mode {mode!r}", f"{stage}: mode", "cached or live")
    if (variants.beta_teacher_start or 0.0) > beta_ref + beta_teacher:
        raise WrongInput(
            f"{variants.beta_teacher_start} is more than beta_ref + beta_teacher = {beta_ref + beta_teacher:.4g}",
            "beta_teacher_start",
            "start lower: β1 + β2 stays the same all along",
        )
    if mode == "live" and variants.target_scale is not None:
        raise WrongInput("live mode knows no scores before the first step", "target_scale", "use mode=cached")
