"""Training on packed pairs from their file on: the same as on padded ones, and resumed as if nothing had been."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule


@pytest.fixture
def training(model_folder, tokenizer, pairs_file, trainer):
    """``training(checkpoint, **data)``: the weights after two epochs, or from the checkpoint to there."""
    student, teacher = model_folder(seed=1, initializer_range=0.2), model_folder(seed=2, initializer_range=0.2)

    def run(checkpoint=None, saved=None, **settings) -> torch.Tensor:
        settings_of_live = {"mode": "live", "teacher": teacher, "optimizer": lambda p: torch.optim.AdamW(p, lr=3e-3)}
        module = DaDPOModule(student, tokenizer, **settings_of_live)
        data = PreferencePairsDataModule(str(pairs_file), tokenizer, batch_size=4, val_fraction=0, **settings)
        keep = [ModelCheckpoint(saved, "{step}", every_n_train_steps=2, save_top_k=-1)] if saved else []
        fit = trainer(max_epochs=2, callbacks=keep, enable_checkpointing=bool(keep))
        fit.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        assert fit.global_step == 12
        return torch.cat([p.detach().flatten() for p in module.trained_policy.parameters()])

    return run


@pytest.mark.parametrize("budget", [None, 150])
def test_packed_is_padded(training, budget):
    packed, padded = training(packing="auto", token_budget=budget), training()
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_resumed_is_uninterrupted(training, tmp_path):
    settings = {"packing": "auto", "token_budget": 200, "sort_window": 2}
    whole = training(saved=tmp_path, **settings)
    for step in (2, 8):  # in the middle of each epoch
        assert torch.equal(training(tmp_path / f"step={step}.ckpt", **settings), whole)
    assert not torch.equal(training(packing="auto"), whole)  # the window made other steps
