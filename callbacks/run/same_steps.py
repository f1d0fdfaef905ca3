"""A run that goes on in other hands, more processes or fewer, sees the rows it has not seen."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.wrong_input import WrongInput


class SameSteps(Callback):
    """Keeps a process's batches an epoch in checkpoints, and refuses to go on with another number.

    Where training goes on is counted in batches: with other ones, rows would be seen twice or not at all.
    """

    def __init__(self):
        self.batches: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the checkpoint, if training goes on from one.

        Raises:
            WrongInput: The numbers differ.
        """
        now = trainer.num_training_batches
        if self.batches is not None and self.batches != now:
            raise WrongInput(
                f"the checkpoint was made with {self.batches:.0f} batches an epoch, here there are {now:.0f}",
                "resume",
                "keep batch_size × devices, and the data",
            )
        self.batches = now

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the checkpoint."""
        self.batches = state_dict["batches"]
