"""Likelihoods of generated questions to disk."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class LikelihoodWriter(Callback):
    """Appends a row a question, ``{"id", "logp", "tokens"}``, to its method's log."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the batch on disk."""
        rows = zip(outputs.row_ids, outputs.logps, outputs.tokens, strict=True)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        log = data.log_of(data.methods[dataloader_idx])
        log.append([{"id": key, "logp": logp, "tokens": tokens} for key, logp, tokens in rows])
