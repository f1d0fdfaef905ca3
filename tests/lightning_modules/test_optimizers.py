"""Optimizers by name: whose they are, what they keep, and that a checkpoint goes on exactly."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from callbacks.run.estimate.adapter import adapter_of
from callbacks.run.estimate.optimizer import numbers_kept
from callbacks.run.estimate.shape import shape_of
from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule
from lightning_modules.language_model import build_skeleton
from lightning_modules.optimizers import KINDS, check_optimizer, make_optimizer

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def trained(folder, tokenizer, token_batch, trainer, kind, epochs=2, lora=None, **fit):
    torch.manual_seed(0)
    module = FineTuningModule(
        "sft", folder, tokenizer, optimizer=lambda groups: make_optimizer(groups, kind, lr=1e-3), lora=lora
    )
    loader = DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(3)], batch_size=None)
    run = trainer(max_epochs=epochs, **{key: value for key, value in fit.items() if key != "ckpt_path"})
    run.fit(module, loader, ckpt_path=fit.get("ckpt_path"), weights_only=True if "ckpt_path" in fit else None)
    return module, run.optimizers[0]


def state_bytes(optimizer):
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in states if torch.is_tensor(value) and value.numel() > 1)


@pytest.mark.parametrize("lora", [None, {"rank": 64}])
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_what_a_plan_counts(kind, lora, model_folder, tokenizer, token_batch, trainer):
    if kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="adamw8bit is bitsandbytes'")
    folder = model_folder(**WIDE)
    module, optimizer = trained(folder, tokenizer, token_batch, trainer, kind, epochs=1, lora=lora)
    shape = shape_of(build_skeleton(folder))
    adapter = adapter_of(shape, 64, "all-linear") if lora else None
    count = sum(p.numel() for p in module.policy.parameters() if p.requires_grad)
    expected = numbers_kept({"kind": kind}, shape, adapter, 4) * 4 * count
    assert expected == pytest.approx(state_bytes(optimizer), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_goes_on_exactly(kind, model_folder, tokenizer, token_batch, trainer, tmp_path):
    if kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="adamw8bit is bitsandbytes'")
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    data = (model_folder(**WIDE), tokenizer, token_batch, trainer, kind)
    whole, optimizer = trained(*data, epochs=3, enable_checkpointing=True, callbacks=[keep])
    resumed, _ = trained(*data, epochs=3, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    for (name, p), q in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(p, q), name
    names = {"adamw": "AdamW", "adamw8bit": "AdamW8bit", "adafactor": "Adafactor"}
    assert type(optimizer).__name__ == names[kind]


def test_eight_bits_are_near_thirty_two(model_folder, tokenizer, token_batch, trainer):
    pytest.importorskip("bitsandbytes", reason="adamw8bit is bitsandbytes'")
    folder = model_folder(**WIDE)
    modules = [trained(folder, tokenizer, token_batch, trainer, kind)[0] for kind in ("adamw", "adamw8bit")]
    start = FineTuningModule("sft", folder, tokenizer)
    start.configure_model()
    for p, q, s in zip(*(m.policy.parameters() for m in (*modules, start)), strict=True):
        moved = (p - s).norm()
        assert (p - q).norm() < 0.3 * moved


@pytest.mark.parametrize(("kind", "betas", "what"), [("adam", None, "unknown"), ("adafactor", (0.9, 0.98), "no betas")])
def test_wrong_settings(kind, betas, what):
    with pytest.raises(WrongInput, match=what):
        check_optimizer(kind, betas)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(WrongInput, match=r"smoothtalk\[quantized\]"):
        check_optimizer("adamw8bit")
