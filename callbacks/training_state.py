"""The state of a training at its end, for another that goes on from it."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

OF_THIS_TRAINING = ("loops", "callbacks")
"""What a checkpoint holds of batches seen and of files written: another training begins with its own."""


class TrainingStateCallback(Callback):
    """Writes what is trained and the optimizer's state when training ends, as a checkpoint without progress.

    A trainer that is given it as ``ckpt_path`` begins at its own first batch, on its own learning-rate schedule, with
    these weights and moments. As any checkpoint it is a file, or of a sharded run a folder, of an adapter the adapter.

    Args:
        path: The checkpoint; it appears whole or not at all.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._at_the_end = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it; every rank has its part in it."""
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        trainer.strategy.barrier()
        self._at_the_end = True
        trainer.save_checkpoint(self.path)
        self._at_the_end = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out of this checkpoint, and of no other, what is of this training alone."""
        if self._at_the_end:
            for part in OF_THIS_TRAINING:
                del checkpoint[part]
            checkpoint["lr_schedulers"] = []
