import lightning
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.best_weights import BestWeights
from callbacks.export import ExportCallback

LOSSES = (3.0, 1.0, 2.0, 5.0)
"""Of development rows, an epoch each: the second is the best."""


class Wandering(LightningModule):
    """A weight that rises by one an epoch, and what it is worth."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("base", torch.ones(()))  # frozen, and left out of checkpoints as under an adapter

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log("stage/val/loss", torch.tensor(LOSSES[self.current_epoch]))

    def on_save_checkpoint(self, checkpoint):
        del checkpoint["state_dict"]["base"]

    def on_load_checkpoint(self, checkpoint):
        self.strict_loading = False

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def export(self, folder):
        folder.mkdir(parents=True)
        (folder / "weight").write_text(str(self.weight.item()))


def fit(folder, epochs=4, start=None, mode="min", validated=True):
    best = BestWeights(str(folder / "best"), "stage/val/loss", mode)
    kept = ModelCheckpoint(folder / "checkpoints", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    callbacks = [ExportCallback(folder / f"model{epochs}"), kept, best]
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=callbacks, enable_model_summary=False, **settings)
    rows = torch.utils.data.DataLoader(torch.zeros(1))
    trainer.fit(Wandering(), rows, rows if validated else None, ckpt_path=start, weights_only=True)
    return float((folder / f"model{epochs}" / "weight").read_text()), best.final_metrics


def test_the_best_weights_are_exported_and_not_the_last(tmp_path):
    assert fit(tmp_path / "low") == (2, {"best_step": 2, "best_value": 1})
    assert fit(tmp_path / "high", mode="max") == (4, {"best_step": 4, "best_value": 5})
    assert len(list((tmp_path / "low" / "best").iterdir())) == 1


def test_a_run_that_goes_on_knows_what_was_best_before(tmp_path):
    fit(tmp_path, epochs=3)
    assert fit(tmp_path, epochs=4, start=tmp_path / "checkpoints" / "epoch=2.ckpt")[0] == 2


def test_where_nothing_was_measured_the_last_are_exported_and_that_is_said(tmp_path, caplog):
    assert fit(tmp_path, validated=False) == (4, {})
    assert "stage/val/loss was never measured" in caplog.text
