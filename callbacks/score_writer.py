"""Scores into the cache, a batch at a time."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.wrong_input import WrongInput


class ScoreWriter(Callback):
    """Writes what ``ScoringModule`` predicts to the cache of its datamodule; a kill loses one batch at most."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch, if every score is a number.

        Raises:
            WrongInput: A score is not finite; names its row.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        for key, logp in zip(outputs.row_ids, outputs.logps, strict=True):
            if not math.isfinite(logp):
                raise WrongInput(
                    f"the {outputs.model} gives {logp}", data.place_of(key), "look at this row, or score in float32"
                )
        data.cache(outputs.model).write(dict(zip(outputs.row_ids, outputs.logps, strict=True)))
