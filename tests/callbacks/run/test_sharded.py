"""What the strategy refuses, and checkpoints in parts that are damaged."""

import shutil

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.distributed.checkpoint import save

from callbacks.goodput.callback import SmoothGoodputCallback
from callbacks.run.checkpoints import check_checkpoint, gathered_checkpoint, newest_checkpoint
from callbacks.run.same_steps import SameSteps
from callbacks.run.sharded import FSDP2Strategy
from datamodules.wrong_input import WrongInput
from tests.two_processes import in_two


class Plain(LightningModule):
    """Trains a line, whole."""

    def __init__(self, by_hand=False):
        super().__init__()
        self.automatic_optimization = not by_hand
        self.line = torch.nn.Linear(2, 1)

    def configure_model(self):
        pass

    def training_step(self, batch, batch_idx):
        return self.line(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(said, by_hand=False, callbacks=()):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "max_epochs": 1}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="fsdp2", callbacks=list(callbacks), **quiet)
    with pytest.raises(WrongInput, match=said):
        trainer.fit(Plain(by_hand), torch.utils.data.DataLoader(torch.ones(4, 2)))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_module_that_is_not_sharded_is_refused(tmp_path):
    in_two(fit, "Plain does not shard its model")
    in_two(fit, "Plain optimises by hand", by_hand=True)
    serving = SmoothGoodputCallback(tmp_path, prompts=object(), engine=object())  # type: ignore[arg-type]
    in_two(fit, "not served while it is trained", callbacks=[serving])


def test_one_device_is_refused():
    with pytest.raises(WrongInput, match="one device"):
        Trainer(accelerator="cpu", devices=1, strategy=FSDP2Strategy(), logger=False).fit(Plain(), [torch.ones(2)])


def parts(folder, step):
    """A checkpoint as a sharded run leaves it, of one process."""
    moments = {"line.weight": {"exp_avg": torch.full((2,), float(step))}, "line.bias": {"exp_avg": torch.ones(1)}}
    groups = [{"lr": 0.1, "params": ["line.weight"]}, {"lr": 0.2, "params": ["line.bias"]}]
    state = {
        "state_dict": {"line.weight": torch.full((2,), 7.0)},
        "optimizer_0": {"state": moments, "param_groups": groups},
    }
    save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": step}, folder / "meta.pt")
    return folder


def test_parts_are_put_together(tmp_path):
    checkpoint = gathered_checkpoint(parts(tmp_path / "step=3.ckpt", 3))
    assert checkpoint["global_step"] == 3
    assert checkpoint["state_dict"]["line.weight"].tolist() == [7.0, 7.0]
    (optimizer,) = checkpoint["optimizer_states"]
    assert [(group["lr"], group["params"]) for group in optimizer["param_groups"]] == [(0.1, [0]), (0.2, [1])]
    assert optimizer["state"][0]["exp_avg"].tolist() == [3.0, 3.0]
    assert optimizer["state"][1]["exp_avg"].tolist() == [1.0]


@pytest.mark.parametrize("damage", ["cut", "no part", "no rest", "no list"])
def test_a_damaged_folder_is_not_gone_on_from(tmp_path, caplog, damage):
    for step in (1, 2):
        parts(tmp_path / f"step={step}.ckpt", step)
    newest = tmp_path / "step=2.ckpt"
    assert newest_checkpoint(tmp_path) == check_checkpoint(str(tmp_path)) == newest
    (part,) = newest.glob("*.distcp")
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        {"no part": part, "no rest": newest / "meta.pt", "no list": newest / ".metadata"}[damage].unlink()
    with pytest.raises(WrongInput, match="no checkpoint can be read"):
        check_checkpoint(str(newest))
    assert newest_checkpoint(tmp_path) == tmp_path / "step=1.ckpt"
    assert "step=2.ckpt" in caplog.text
    assert not newest.exists()
    shutil.rmtree(tmp_path / "step=1.ckpt")
    with pytest.raises(WrongInput, match="name a .ckpt"):
        check_checkpoint(str(tmp_path))


def test_other_steps_are_refused():
    class Batches:
        num_training_batches = 6

    before, after = SameSteps(), SameSteps()
    before.on_train_start(Batches(), Plain())  # type: ignore[arg-type]
    after.load_state_dict(before.state_dict())
    after.on_train_start(Batches(), Plain())  # type: ignore[arg-type]
    Batches.num_training_batches = 3
    with pytest.raises(WrongInput, match="6 batches an epoch, here there are 3"):
        after.on_train_start(Batches(), Plain())  # type: ignore[arg-type]
