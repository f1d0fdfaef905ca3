"""The trained policy as a Hugging Face folder."""

from pathlib import Path
from typing import Protocol

from lightning import Callback, LightningModule, Trainer


class Exporting(Protocol):
    """What is asked of the module."""

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
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
        if trainer.is_global_zero:
            module: Exporting = pl_module  # type: ignore[assignment]
            module.export(self.folder)
        trainer.strategy.barrier()
