"""A few questions of each validation, to look at: a number that rises does not say what it rises by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from datamodules.responses import write_jsonl


class Sample(Protocol):
    """A row of the table: a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


class Sampled(Protocol):
    """What is asked of the module."""

    name: str
    samples: Sequence[Sample]
    """Of the last validation."""


class SampleTable(Callback):
    """Writes the module's samples as JSON lines, a row a question, and shows them at W&B where that is the logger.

    A row has ``step`` and the sample's fields: ``{"step", "example", "template", "question", "answer", "qa_answer",
    "reward"}``. The file holds the last validation's; at W&B ``STAGE/val/samples`` keeps each.

    Args:
        path: The file; written aside, then renamed.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and show the table, on one rank: its own share of the rows."""
        module: Sampled = pl_module  # type: ignore[assignment]
        if trainer.sanity_checking or not trainer.is_global_zero or not module.samples:
            return
        rows = [{"step": trainer.global_step, **sample._asdict()} for sample in module.samples]
        write_jsonl(self.path, rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                data = [list(row.values()) for row in rows]
                logger.log_table(f"{module.name}/val/samples", columns=list(rows[0]), data=data)
