"""The variants in training: what moves, what is logged, and that a killed run goes on alike."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule, FineTuningModule
from lightning_modules.dadpo import Variants

STEPS = 12
BETAS = {"beta_ref": 0.2, "beta_teacher": 0.4}


class Watch(Callback):
    """What was logged of each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({key.rpartition("/")[2]: float(value) for key, value in trainer.callback_metrics.items()})


@pytest.fixture
def training(model_folder, tokenizer, pairs_file, trainer):
    """``training(variants, checkpoint, saved)``: module, weights and what was logged of two epochs, live."""
    student, teacher = model_folder(seed=1, initializer_range=0.2), model_folder(seed=2, initializer_range=0.2)

    def run(variants, checkpoint=None, saved=None, packing="auto") -> SimpleNamespace:
        settings = {"mode": "live", "teacher": teacher, "optimizer": lambda p: torch.optim.AdamW(p, lr=3e-3)}
        module = DaDPOModule(student, tokenizer, variants=variants, **BETAS, **settings)
        data = PreferencePairsDataModule(str(pairs_file), tokenizer, batch_size=4, val_fraction=0, packing=packing)
        watch = Watch()
        keep = [ModelCheckpoint(saved, "{step}", every_n_train_steps=2, save_top_k=-1)] if saved else []
        fit = trainer(max_epochs=2, callbacks=[watch, *keep], enable_checkpointing=bool(keep), log_every_n_steps=1)
        fit.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        assert fit.global_step == STEPS
        weights = torch.cat([p.detach().flatten() for p in module.trained_policy.parameters()])
        return SimpleNamespace(module=module, weights=weights, steps=watch.steps)

    return run


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_schedule_rises_to_its_end_at_a_constant_sum_and_is_the_same_after_a_kill(shape, training, tmp_path):
    variants = Variants(beta_schedule=shape, beta_teacher_start=0.1)
    whole = training(variants, saved=tmp_path)
    shares = [step / (STEPS - 1) for step in range(STEPS)]
    if shape == "cosine":
        shares = [(1 - math.cos(math.pi * share)) / 2 for share in shares]
    expected = [0.1 + 0.3 * share for share in shares]
    assert [step["beta_teacher"] for step in whole.steps] == pytest.approx(expected)
    factors = [step["overshoot_factor"] for step in whole.steps]
    assert factors == pytest.approx([beta / 0.6 + 1 / 0.6 for beta in expected])
    for step in (2, 8):  # in the middle of each epoch
        resumed = training(variants, tmp_path / f"step={step}.ckpt")
        assert [s["beta_teacher"] for s in resumed.steps] == pytest.approx(expected[step:])
        assert torch.equal(resumed.weights, whole.weights)
    assert whole.module.betas == pytest.approx((0.2, 0.4))
    assert not torch.equal(training(Variants()).weights, whole.weights)


def test_the_first_loss_of_a_ramp_from_nothing_is_that_of_dpo(training):
    first = training(Variants(beta_schedule="linear")).steps[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["target_margin"] == 0.0
    assert training(Variants()).steps[0]["loss"] > 0.75


@pytest.mark.parametrize("packing", ["off", "auto"])
def test_the_sft_term_is_fine_tunings_loss_on_the_chosen(packing, training, tokenizer, pairs_file):
    result = training(Variants(sft_weight=0.5), packing=packing)
    plain = training(Variants(), packing=packing)
    assert result.steps[0]["loss"] == pytest.approx(plain.steps[0]["loss"] + 0.5 * plain.steps[0]["sft_loss"], rel=1e-5)
    assert result.steps[-1]["sft_loss"] < plain.steps[-1]["sft_loss"]  # which a margin alone does not care for
    data = PreferencePairsDataModule(str(pairs_file), tokenizer, batch_size=4, val_fraction=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    tuning = FineTuningModule("sft", "", tokenizer)
    tuning.policy = result.module.policy
    logps = result.module.policy_logps(batch)[0]
    theirs = tuning._loss(batch.chosen).loss
    assert -logps.sum().item() / int(batch.chosen.response_mask.sum()) == pytest.approx(theirs.item(), rel=1e-5)


def test_normalised_packed_is_normalised_padded(training):
    variants = Variants(length_normalised=True)
    packed, padded = training(variants), training(variants, packing="off")
    torch.testing.assert_close(packed.weights, padded.weights, rtol=1e-4, atol=1e-5)
    step = packed.steps[0]
    tokens = (step["chosen_tokens"] + step["rejected_tokens"]) / 2
    assert step["overshoot_factor"] == pytest.approx(0.4 / 0.6 + tokens / 0.6, rel=1e-5)
    assert abs(step["target_margin"]) < abs(training(Variants()).steps[0]["target_margin"])
