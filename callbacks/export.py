"""The trained policy as a Hugging Face folder."""

from pathlib import Path
from typing import Protocol

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy


class Exporting(Protocol):
    """What is asked of the module."""

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder. With a sharded model every rank is asked, and gathers; the first writes."""
        ...


class ExportCallback(Callback):
    """Exports the module when training has ended.

    Args:
        folder: Written aside, then renamed.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder, on one rank."""
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)
        if trainer.is_global_zero or sharded:
            module: Exporting = pl_module  # type: ignore[assignment]
            module.export(self.folder)
        trainer.strategy.barrier()
