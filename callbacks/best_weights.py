"""The weights that did best on development rows, kept beside the checkpoints that a killed run goes on from."""

import logging

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

log = logging.getLogger(__name__)


class BestWeights(ModelCheckpoint):
    """Keeps the weights of the best validation; ``ExportCallback`` exports them in place of the last ones.

    Args:
        dirpath: Of its own: in the stage's folder of checkpoints a killed run would go on from it.
        monitor: What is compared, a key logged at validation: ``vanilla/val/loss``.
        mode: ``min`` or ``max``.

    Attributes:
        final_metrics: ``best_step`` and ``best_value``, of what was kept; nothing where no validation was run.
    """

    def __init__(self, dirpath: str, monitor: str, mode: str = "min"):
        super().__init__(
            dirpath,
            filename="{step}",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    @property
    def final_metrics(self) -> dict[str, float]:
        """See the class."""
        if self.best_model_score is None:
            return {}
        step = int(self.best_model_path.rpartition("step=")[2].removesuffix(self.FILE_EXTENSION))
        return {"best_step": step, "best_value": self.best_model_score.item()}

    def take(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the best weights into the module; its last ones stay, and it is said, where nothing was measured."""
        if not self.best_model_path:
            log.warning("%s was never measured: the last weights are exported, not the best", self.monitor)
            return
        checkpoint = trainer.strategy.load_checkpoint(self.best_model_path, weights_only=True)
        module.on_load_checkpoint(checkpoint)  # an adapter's module lets its frozen base be missing
        trainer.strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
