"""How fast scoring goes, and how long it will take."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.batches import TokenBatch

log = logging.getLogger(__name__)


class ScoringProgress(Callback):
    """Says now and then how many tokens a second a model scores, and the time left for it.

    Tokens are those of prompts, each once where batches are packed, and responses; padding does not count.

    Args:
        every_s: Seconds between two lines. The last one comes when all is done.
        clock: Seconds that only grow.
    """

    def __init__(self, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self.every_s, self.clock = every_s, clock
        self._model = -1
        self._start = self._said = 0.0
        self._done = self._all = 0

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin to count with a model's first batch."""
        if dataloader_idx != self._model or batch_idx == 0:
            self._model, self._done = dataloader_idx, 0
            loaders: Any = trainer.predict_dataloaders
            self._all = loaders[dataloader_idx].dataset.tokens
            self._start = self._said = self.clock()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say it, if it is time."""
        filled = batch.attention_mask if isinstance(batch, TokenBatch) else batch.prompts >= 0
        self._done += int(filled.sum())
        now = self.clock()
        over = self._done >= self._all
        if trainer.is_global_zero and (over or now - self._said >= self.every_s):
            self._said = now
            log.info(self.line(outputs.model, now - self._start))

    def line(self, model: str, seconds: float) -> str:
        """What is said after so many seconds."""
        rate = self._done / max(seconds, 1e-9)
        left = timedelta(seconds=round((self._all - self._done) / max(rate, 1e-9)))
        return f"scores of the {model}: {self._done / self._all:.0%}, {rate:,.0f} tokens/s, {left} left"
