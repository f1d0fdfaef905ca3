"""The bank of templates to disk."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class BankWriter(Callback):
    """Saves the datamodule's bank.

    Args:
        path: Of the file, JSON lines.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, on one rank."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            data.bank.save(self.path)
