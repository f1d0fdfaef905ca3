"""What was logged while training, on disk beside the stage, whatever the logger."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from datamodules.responses import ResponseLog


class TrainingCurve(Callback):
    """Appends the logged numbers to JSON lines, ``{"id": step, "step": step, KEY: number, …}``.

    A resumed run writes the steps since its checkpoint once more; the last line of a step counts.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path):
        self.lines = ResponseLog(path)
        self._last = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args, **kwargs) -> None:
        """One line every ``log_every_n_steps`` optimizer steps."""
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = trainer.global_step != self._last and trainer.global_step % interval == 0
        if due and trainer.is_global_zero:
            self._last = trainer.global_step
            self._append(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line a validation."""
        if not trainer.sanity_checking and trainer.is_global_zero:
            self._append(trainer)

    def _append(self, trainer: Trainer) -> None:
        values = {key: value.item() for key, value in trainer.callback_metrics.items()}
        self.lines.append([{"id": trainer.global_step, "step": trainer.global_step, **values}])
