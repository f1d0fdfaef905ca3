"""The trained policy as a Hugging Face folder."""

from pathlib import Path
from typing import Protocol

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks.best_weights import BestWeights


class Exporting(Protocol):
    """What is asked of the module."""

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder. With a sharded model every rank is asked, and gathers; the first writes."""
        ...


class ExportCallback(Callback):
    """Exports the module when training has ended: its best weights where ``BestWeights`` has kept them.

    Args:
        folder: Written aside, then renamed.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder, on one rank."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, BestWeights):
                callback.take(trainer, pl_module)
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)
        if trainer.is_global_zero or sharded:
            module: Exporting = pl_module  # type: ignore[assignment]
            module.export(self.folder)
        trainer.strategy.barrier()
