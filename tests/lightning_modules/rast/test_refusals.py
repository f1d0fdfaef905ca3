"""RASTModule: settings, rewards, weights and trainers that it does not take, each told in one line."""

import math
from types import SimpleNamespace

import pytest
import torch

from datamodules.wrong_input import WrongInput


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"baseline": "mean"}, "unknown baseline 'mean': self_critical, group or none (stage rast)"),
        ({"reward_mode": "sum"}, "unknown reward_mode 'sum'"),
        ({"templates_per_passage": 0}, "needs 1 or more templates, got 0"),
        ({"templates_per_passage": 1, "baseline": "group"}, "group needs 2 or more templates"),
        ({"kl_weight": -0.1}, "weight must not be negative, got -0.1"),
        ({"reward_weights": {"consistency": 1.0, "diversity": -0.1}}, "reward diversity must not be negative"),
        ({"reward_weights": {"consistency": 1.0}}, "must have the same names"),
        ({"qa": None}, "the consistency reward asks a QA model (stage rast: qa)"),
        ({"accumulate": 0}, "accumulate is 0 (rast: accumulate)"),
        ({"clip": 0.0}, "clip is 0.0 (rast: clip)"),
        ({"clip": math.nan}, "clip is nan"),
        ({"warmup": 2.0}, "warmup is a share of the steps"),
        ({"frozen_dtype": "int8"}, "unknown dtype 'int8' (stage rast: frozen_dtype)"),
        (
            {"rewards": {"d": len}, "reward_weights": {"d": 1.0}, "reward_mode": "authors"},
            "reward_mode authors needs a reward named consistency",
        ),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, told, rast):
    with pytest.raises(WrongInput) as error:
        rast(**settings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"templates": []}, "the bank of templates is empty"),
        ({"templates_per_passage": 17}, "17 templates an input are wanted and candidates is 12"),
        ({"templates": ["who ?", "when ?"]}, "3 templates an input are wanted and the bank has 2"),
    ],
)
def test_banks_that_are_too_small_are_told_before_training(settings, told, rast):
    with pytest.raises(WrongInput, match=told):
        rast(**settings).configure_model()


def test_a_reward_that_is_no_number_names_reward_and_example(rast, question_batch, batches, trainer):
    def broken(asked):
        return torch.tensor([math.nan if e.id.endswith(":3") else 1.0 for e in asked.examples])

    module = rast(rewards={"mine": broken}, reward_weights={"mine": 1.0})
    with pytest.raises(WrongInput, match="reward mine is nan in row 6") as error:
        trainer().fit(module, datamodule=batches([question_batch()]))
    assert "example facts.jsonl:3, " in str(error.value)


def test_weights_that_are_no_numbers(rast, question_batch, batches, trainer):
    for setting, match in (
        ("retriever", "retrieval scores are no numbers"),
        ("gradient", r"the gradient's norm is nan at step 0 \(stage rast, batch 0\)"),
        ("loss", r"the loss is nan at step 0 \(stage rast, rows facts.jsonl:1, facts.jsonl:2, "),
    ):
        module = rast()
        module.configure_model()
        if setting == "retriever":
            torch.nn.init.constant_(module.retriever.query_encoder.encoder.final_layer_norm.weight, math.nan)
        elif setting == "gradient":
            module.policy.shared.weight.register_hook(lambda gradient: gradient * math.nan)
        else:
            torch.nn.init.constant_(module._frozen.reference.decoder.final_layer_norm.weight, math.nan)
        before = [p.detach().clone() for p in module.policy.parameters()]
        with pytest.raises(WrongInput, match=match):
            trainer().fit(module, datamodule=batches([question_batch()]))
        assert all(torch.equal(p, q) for p, q in zip(module.policy.parameters(), before, strict=True))


def test_trainers_that_are_refused(rast, question_batch, batches, trainer):
    module = rast()
    data = batches([question_batch()])
    with pytest.raises(WrongInput, match="training has no end"):
        trainer(max_epochs=-1).fit(module, datamodule=data)
    fake = {"precision": "16-mixed", "precision_plugin": SimpleNamespace(scaler=object())}
    module._trainer = SimpleNamespace(**fake)
    with pytest.raises(WrongInput, match="precision 16-mixed scales gradients"):
        module.on_fit_start()
    module._trainer = SimpleNamespace(precision_plugin=None, strategy=SimpleNamespace())
    with pytest.raises(WrongInput, match="SimpleNamespace is not known here"):
        module.on_fit_start()
