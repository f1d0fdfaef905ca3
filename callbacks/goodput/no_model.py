"""A stage without a model."""

from typing import Any

from lightning import LightningModule


class NoModel(LightningModule):
    """Has no parameters and computes nothing: what there is to be done with a batch, the callbacks do."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing."""
