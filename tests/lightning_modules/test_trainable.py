"""What all training modules share: optimizer groups, schedule, mode of the policy, gradient checkpointing."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule


@pytest.fixture
def loader(token_batch):
    return DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(10)], batch_size=None)


class LearningRates(Callback):
    """The rate that each step is taken with, and the one that is logged."""

    def __init__(self):
        self.taken, self.logged = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.taken.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if "sft/train/lr" in trainer.logged_metrics:
            self.logged.append(trainer.logged_metrics["sft/train/lr"].item())


def test_vectors_do_not_decay(model_folder, tokenizer, loader, trainer):
    module = FineTuningModule(
        "sft", model_folder(), tokenizer, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.3)
    )
    fit = trainer(max_steps=1)
    fit.fit(module, loader)
    decays = {id(p): group["weight_decay"] for group in fit.optimizers[0].param_groups for p in group["params"]}
    names = {name: decays[id(p)] for name, p in module.policy.named_parameters()}
    assert len(decays) == len(names)
    assert {name for name, decay in names.items() if not decay} == {
        name for name in names if name.endswith("bias") or "norm" in name
    }
    assert set(names.values()) == {0.0, 0.3}


def test_warm_up_and_cosine(model_folder, tokenizer, loader, trainer):
    rates = LearningRates()
    module = FineTuningModule(
        "sft", model_folder(), tokenizer, warmup=0.2, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5)
    )
    trainer(max_epochs=2, callbacks=[rates], log_every_n_steps=1).fit(module, loader)
    steps, warm = 20, 4
    expected = [0.5 * step / warm for step in range(warm)]
    expected += [0.25 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) for step in range(warm, steps)]
    assert [rate for rate, *_ in rates.taken] == pytest.approx(expected)
    assert all(len(set(groups)) == 1 for groups in rates.taken)
    assert rates.logged == pytest.approx(expected)


def test_the_schedule_counts_steps_not_batches(model_folder, tokenizer, loader, trainer):
    rates = LearningRates()
    module = FineTuningModule(
        "sft", model_folder(), tokenizer, warmup=0.0, optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0)
    )
    trainer(accumulate_grad_batches=5, max_epochs=2, callbacks=[rates], log_every_n_steps=1).fit(module, loader)
    expected = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [rate for rate, *_ in rates.taken] == pytest.approx(expected)


def test_default_optimizer(model_folder, tokenizer, loader, trainer):
    fit = trainer(max_steps=1)
    fit.fit(FineTuningModule("sft", model_folder(), tokenizer), loader)
    (optimizer,) = fit.optimizers
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == 1e-5


def test_a_loaded_policy_trains_in_train_mode(model_folder, tokenizer):
    """Transformers loads in eval mode, and Lightning keeps it: dropout and gradient checkpointing would be off."""
    module = FineTuningModule("sft", model_folder("gpt2"), tokenizer)
    module.configure_model()
    assert all(part.training for part in module.policy.modules())
    assert module.trained_policy is module.policy


def test_gradient_checkpointing_gives_the_same_weights_and_is_at_work(model_folder, tokenizer, loader, trainer):
    weights, passes = [], []
    for checkpointing in (False, True):
        module = FineTuningModule(
            "sft",
            model_folder(),
            tokenizer,
            gradient_checkpointing=checkpointing,
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        )
        count = []
        module.configure_model()
        module.policy.model.layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        trainer(max_epochs=1).fit(module, loader)
        weights.append(list(module.policy.parameters()))
        passes.append(len(count))
    assert passes == [10, 20]
    for p, q in zip(*weights, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_training_without_an_end_is_refused(model_folder, tokenizer, loader, trainer):
    with pytest.raises(WrongInput, match="training has no end"):
        trainer(max_epochs=-1).fit(FineTuningModule("sft", model_folder(), tokenizer), loader)


def test_a_wrong_dtype_is_told_when_the_policy_is_built(model_folder, tokenizer):
    with pytest.raises(WrongInput, match="unknown dtype 'half'"):
        FineTuningModule("sft", model_folder(), tokenizer, dtype="half").configure_model()


def test_a_fused_optimizer_clips_in_mixed_bfloat16(model_folder, tokenizer, loader, trainer):
    norms = []

    class Norm(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.nn.utils.get_total_norm(grads).item()] if grads else [])

    module = FineTuningModule(
        "sft", model_folder(), tokenizer, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True)
    )
    trainer(precision="bf16-mixed", gradient_clip_val=0.01, callbacks=[Norm()]).fit(module, loader)
    assert len(norms) >= 9
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
