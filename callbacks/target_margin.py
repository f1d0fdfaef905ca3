"""What the teacher's distribution asks of each pair, before any training."""

import json
import math
from pathlib import Path
from typing import Protocol

from lightning import Callback, LightningModule, Trainer

from datamodules.batches import PairScores
from datamodules.responses import replace_file


class Betas(Protocol):
    """What is asked of the module."""

    beta_ref: float
    beta_teacher: float


class TargetMarginCallback(Callback):
    """Writes β2·δ_te of all training pairs, with the share that saturates and the overshoot factor (cached mode).

    Args:
        path: JSON: ``values`` in nats, ``saturated_share`` (of |β2·δ_te| > ln 99, where σ is within 1 % of 0 or 1) and
            ``overshoot_factor`` = β2/B + 1/B, B = β1 + β2.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, on one rank, where the scores are known."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not data.frozen or not trainer.is_global_zero:
            return
        betas: Betas = pl_module  # type: ignore[assignment]
        scores: PairScores = data.train_scores()
        teacher = scores.teacher_chosen_logps - scores.teacher_rejected_logps
        reference = scores.ref_chosen_logps - scores.ref_rejected_logps
        margins = betas.beta_teacher * (teacher - reference)
        total = betas.beta_ref + betas.beta_teacher
        summary = {
            "values": [round(value, 6) for value in margins.tolist()],
            "saturated_share": (margins.abs() > math.log(99)).float().mean().item(),
            "overshoot_factor": betas.beta_teacher / total + 1 / total,
        }
        replace_file(self.path, json.dumps(summary))
