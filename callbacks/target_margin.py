"""What the teacher's distribution asks of each pair, before any training."""

import json
import math
from pathlib import Path
from typing import Protocol

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.batches import PairScores
from datamodules.responses import replace_file


class Objective(Protocol):
    """What is asked of the module."""

    def target_margins(self, scores: PairScores, lengths: tuple[Tensor, Tensor]) -> Tensor:
        """β2·δ_te (n,)."""
        ...

    def overshoot_factor(self, lengths: tuple[Tensor, Tensor]) -> float:
        """How far the settings ask the student to go."""
        ...


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
        objective: Objective = pl_module  # type: ignore[assignment]
        scores, lengths = data.train_scores(), data.train_lengths()
        margins = objective.target_margins(scores, lengths)
        summary = {
            "values": [round(value, 6) for value in margins.tolist()],
            "saturated_share": (margins.abs() > math.log(99)).float().mean().item(),
            "overshoot_factor": objective.overshoot_factor(lengths),
        }
        replace_file(self.path, json.dumps(summary))
