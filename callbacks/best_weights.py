"""The weights that did best on development rows, kept beside the checkpoints that a killed run goes on from."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.wrong_input import WrongInput


class BestWeights(ModelCheckpoint):
    """Keeps the weights of the best validation; ``ExportCallback`` exports them in place of the last ones.

    Args:
        dirpath: Of its own: in the stage's folder of checkpoints a killed run would go on from it.
        monitor: What is compared, a key logged at validation: ``vanilla/val/loss``.
        mode: ``min`` or ``max``.

    Attributes:
        final_metrics: ``best_step`` and ``best_value``, of what was kept.
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
        assert self.best_model_score is not None
        step = int(self.best_model_path.rpartition("step=")[2].removesuffix(self.FILE_EXTENSION))
        return {"best_step": step, "best_value": self.best_model_score.item()}

    def take(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the best weights into the module.

        Raises:
            WrongInput: No validation has been run.
        """
        if not self.best_model_path:
            raise WrongInput(
                f"the best weights are asked for, and {self.monitor} was never measured",
                "callbacks best",
                "give development rows (val_data= or val_fraction=) and let the training reach a validation",
            )
        checkpoint = trainer.strategy.load_checkpoint(self.best_model_path, weights_only=True)
        trainer.strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
