"""The state that a training leaves: all that another needs to go on from it, and nothing of its own progress."""

import lightning
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.training_state import TrainingStateCallback
from tests.two_processes import in_two

ROWS = torch.arange(24.0).view(12, 2) / 10


class Regression(LightningModule):
    """Two weights, Adam, a rate that halves each step, and a record of what was seen."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(2))
        self.seen, self.rates = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch_idx))
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (batch @ self.weights - batch.sum(-1)).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fit(module, rows, callbacks, start=None, **settings):
    settings |= {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks)}
    trainer = lightning.Trainer(max_epochs=1, callbacks=callbacks, use_distributed_sampler=False, **settings)
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=2), ckpt_path=start, weights_only=True)
    return trainer


def test_another_training_goes_on_with_weights_and_moments_and_begins_at_its_first_batch(tmp_path):
    state = tmp_path / "state" / "last.ckpt"
    kept = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, save_top_k=-1)
    first, second = Regression(), Regression()
    fit(first, ROWS[:8], [TrainingStateCallback(state), kept], devices=1)
    trainer = fit(second, ROWS[8:], [], start=state, devices=1)
    assert second.seen == [(0, 0), (1, 1)]
    assert second.rates == [0.1 * 0.5**4, 0.1 * 0.5]  # that of the state until its own schedule steps
    assert trainer.current_epoch == 1
    for path in (tmp_path / "kept").iterdir():  # those in the middle are whole
        assert {"loops", "callbacks"} <= torch.load(path, weights_only=True).keys()
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for batch, rate in zip(ROWS.view(6, 2, 2), first.rates + second.rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (batch @ weights - batch.sum(-1)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(second.weights.detach(), weights.detach())


def test_the_same_training_leaves_the_same_file(tmp_path):
    files = [tmp_path / name / "last.ckpt" for name in ("a", "b")]
    for path in files:
        fit(Regression(), ROWS, [TrainingStateCallback(path)], devices=1)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_leave_one(tmp_path):
    alone = tmp_path / "alone" / "last.ckpt"
    fit(Regression(), ROWS, [TrainingStateCallback(alone)], devices=1)
    together = tmp_path / "together" / "last.ckpt"
    in_two(fit, Regression(), ROWS, [TrainingStateCallback(together)], devices=2, strategy="ddp")
    found, expected = (torch.load(path, weights_only=True)["state_dict"]["weights"] for path in (together, alone))
    torch.testing.assert_close(found, expected)
