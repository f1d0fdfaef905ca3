"""DaDPOModule: two modes with one result, frozen models that stay out of everything, and what it logs and refuses."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import OmegaConf

from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.response_logps import response_logps
from tests.lightning_modules.dadpo.distilling import (
    BETAS,
    WIDE,
    Batches,
    assert_same_weights,
    cached,
    live,
    with_scores,
)

KEYS = {
    "loss",
    "margin",
    "ref_reward_margin",
    "teacher_reward_margin",
    "chosen_reward",
    "rejected_reward",
    "accuracy",
    "target_margin",
    "target_margin_p10",
    "target_margin_p50",
    "target_margin_p90",
    "saturated_share",
    "overshoot_factor",
    "beta_teacher",
    "sft_loss",
    "chosen_logps",
    "rejected_logps",
    "chosen_tokens",
    "rejected_tokens",
    "useful_token_share",
}
DROPOUT = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}


def test_live_scores_are_the_cached_ones_in_mixed_precision_too(folders, tokenizer, batches, trainer):
    (scored, *_), module = with_scores(batches, folders, tokenizer, trainer), live(folders, tokenizer)
    found = []

    class Asking(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with trainer.precision_plugin.train_step_context():
                assert torch.is_autocast_enabled("cpu")
                found.append(module.frozen_scores(batches[0]))

    fit = trainer(precision="bf16-mixed", callbacks=[Asking()], max_steps=1)
    fit.fit(module, datamodule=Batches(batches[:1]))
    torch.testing.assert_close(torch.stack(found[0]), torch.stack(scored.scores), rtol=0, atol=1e-4)
    own = module.policy_logps(batches[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert (module.policy_logps(batches[0])[0] - own[0]).abs().max() > 1e-3  # autocast would have told


def test_cached_and_live_give_one_loss_and_gradient(folders, tokenizer, batches, trainer):
    scored = with_scores(batches, folders, tokenizer, trainer)
    modules = live(folders, tokenizer), cached(folders, tokenizer)
    for module in modules:
        module.configure_model()
        torch.nn.init.normal_(module.policy.lm_head.weight, generator=torch.Generator().manual_seed(0))  # has moved
    for batch, cache in zip(batches, scored, strict=True):
        losses = [module.losses(b).loss.mean() for module, b in zip(modules, (batch, cache), strict=True)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
        for loss in losses:
            loss.backward()
    for p, q in zip(*(module.policy.parameters() for module in modules), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5)
        assert p.grad.abs().max() > 1e-3


def test_cached_and_live_training_end_in_the_same_weights(folders, tokenizer, batches, trainer):
    scored = with_scores(batches, folders, tokenizer, trainer)
    modules = live(folders, tokenizer), cached(folders, tokenizer)
    for module, data in zip(modules, (batches, scored), strict=True):
        trainer(max_epochs=2).fit(module, datamodule=Batches(data))
    assert_same_weights(*modules, rtol=1e-4, atol=1e-5)
    start = build_language_model(folders["student"])
    assert not torch.allclose(start.lm_head.weight, modules[0].policy.lm_head.weight, atol=1e-3)


def test_training_lowers_the_loss(folders, tokenizer, batches, trainer):
    module = live(folders, tokenizer)
    module.configure_model()
    with torch.no_grad():
        before = module.losses(batches[0]).loss.mean()
        trainer(max_epochs=20).fit(module, datamodule=Batches(batches[:1]))
        assert module.losses(batches[0]).loss.mean() < before / 2


@pytest.mark.parametrize("mode", ["live", "cached"])
def test_the_first_loss_is_softplus_of_the_target_margin(mode, folders, tokenizer, batches, trainer):
    scored = with_scores(batches[:1], folders, tokenizer, trainer)[0]
    module = (live if mode == "live" else cached)(folders, tokenizer)
    fit = trainer(max_steps=1)
    fit.fit(module, datamodule=Batches([scored]))
    s = scored.scores
    delta = (s.teacher_chosen_logps - s.teacher_rejected_logps) - (s.ref_chosen_logps - s.ref_rejected_logps)
    expected = torch.nn.functional.softplus(BETAS["beta_teacher"] * delta).mean()
    torch.testing.assert_close(fit.logged_metrics["dadpo/train/loss"], expected, rtol=1e-5, atol=1e-5)
    assert abs(expected - math.log(2)) > 0.05


class Observer(Callback):
    """What the trainer and the module look like in the middle of training."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        frozen = pl_module._frozen
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.seen.append(
            {
                "policy trains": pl_module.policy.training,
                "frozen trains": any(part.training for model in frozen for part in model.modules()),
                "gradients": any(p.grad is not None or p.requires_grad for m in frozen for p in m.parameters()),
                "optimised": any(id(p) in trained for model in frozen for p in model.parameters()),
                "registered": any(p is q for m in frozen for p in m.parameters() for q in pl_module.parameters()),
                "policy optimised": trained == {id(p) for p in pl_module.policy.parameters()},
            }
        )


def test_frozen_models_stay_out_of_everything(model_folder, tokenizer, batches, trainer, tmp_path):
    folders = {"student": model_folder("gpt2", seed=1, **DROPOUT), "teacher": model_folder("gpt2", seed=2, **DROPOUT)}
    module, observer = live(folders, tokenizer), Observer()
    path = tmp_path / "last.ckpt"
    module.configure_model()
    module.train()
    before = module.frozen_scores(batches[0])
    fit = trainer(callbacks=[observer])
    fit.fit(module, datamodule=Batches(batches, val=batches[:1]))
    fit.save_checkpoint(path)
    assert len(observer.seen) == 3
    for seen in observer.seen:
        assert seen.pop("policy trains")
        assert seen.pop("policy optimised")
        assert not any(seen.values()), seen
    for now, then, twice in zip(
        module.frozen_scores(batches[0]), before, module.frozen_scores(batches[0]), strict=True
    ):
        assert torch.equal(now, then)  # no dropout: the same each time, and not trained
        assert torch.equal(now, twice)
    assert not torch.equal(*(module.policy_logps(batches[0])[0] for _ in range(2)))  # the policy has its dropout
    names = {f"policy.{name}" for name in module.policy.state_dict()}
    assert set(module.state_dict()) == names
    assert set(torch.load(path, weights_only=True)["state_dict"]) == names
    assert len(list(module.parameters())) == len(list(module.policy.parameters()))


def test_a_checkpoint_of_live_training_goes_on_where_it_stopped(folders, tokenizer, batches, trainer, tmp_path):
    whole = live(folders, tokenizer)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    data = Batches(batches)
    trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep]).fit(whole, datamodule=data)
    resumed = live(folders, tokenizer)
    fit = trainer(max_epochs=3)
    fit.fit(resumed, datamodule=data, ckpt_path=str(tmp_path / "epoch=0.ckpt"), weights_only=True)
    assert fit.global_step == 9
    assert_same_weights(resumed, whole, rtol=0, atol=0)
    reference = build_language_model(folders["student"])
    assert torch.equal(resumed._frozen[0].lm_head.weight, reference.lm_head.weight)  # the start, not the checkpoint


def test_a_checkpoint_of_live_mode_serves_cached_mode(folders, tokenizer, batches, trainer, tmp_path):
    module = live(folders, tokenizer)
    fit = trainer()
    fit.fit(module, datamodule=Batches(batches))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    other = cached(folders, tokenizer)
    scored = with_scores(batches, folders, tokenizer, trainer)
    trainer(max_epochs=2).fit(other, datamodule=Batches(scored), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert not torch.equal(other.policy.lm_head.weight, module.policy.lm_head.weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_the_rows(bad, folders, tokenizer, batches, trainer):
    batch = with_scores(batches[:1], folders, tokenizer, trainer)[0]
    batch.scores.teacher_chosen_logps[2] = bad
    module = cached(folders, tokenizer, name="mine")
    with pytest.raises(WrongInput, match="the loss is (nan|inf) at step 0") as error:
        trainer().fit(module, datamodule=Batches([batch]))
    assert "stage mine, rows data.jsonl:1, data.jsonl:2, data.jsonl:3, data.jsonl:4" in str(error.value)
    assert_same_weights(module, _start(folders, tokenizer), rtol=0, atol=0)  # it had not stepped


def _start(folders, tokenizer):
    module = cached(folders, tokenizer)
    module.configure_model()
    return module


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"beta_ref": 0.0, "beta_teacher": 0.0}, "sum must be positive, got 0.0 and 0.0 (s: beta_ref, beta_teacher)"),
        ({"beta_ref": -0.1}, "must not be negative"),
        ({"mode": "online"}, "unknown mode 'online' (s: mode): cached or live"),
        ({"mode": "live"}, "live mode needs a teacher (s: teacher)"),
        ({"warmup": 1.5}, "warmup is a share of the steps, got 1.5 (s: warmup)"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, told, folders, tokenizer):
    with pytest.raises(WrongInput) as error:
        DaDPOModule(folders["student"], tokenizer, name="s", **settings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_cached_mode_without_scores(folders, tokenizer, batches, trainer):
    with pytest.raises(WrongInput, match="the batch has no scores"):
        trainer().fit(cached(folders, tokenizer), datamodule=Batches(batches))


def test_cached_mode_loads_the_policy_alone(folders, tokenizer):
    module = cached(folders, tokenizer, teacher="there/is/none", reference="nor/here")
    module.configure_model()
    assert module._frozen == ()
    policy = module.policy
    module.configure_model()
    assert module.policy is policy  # built once


def test_it_logs_exactly_what_is_documented(folders, tokenizer, batches, trainer):
    fit = trainer(max_epochs=1, log_every_n_steps=1)
    fit.fit(live(folders, tokenizer, name="mine"), datamodule=Batches(batches, val=batches[:2]))
    assert set(fit.logged_metrics) == {f"mine/{split}/{key}" for split in ("train", "val") for key in KEYS} | {
        "mine/train/lr"
    }
    assert all(value.isfinite() for value in fit.logged_metrics.values())


def test_what_it_logs_is_what_the_names_say(folders, tokenizer, pair_batch, trainer):
    """On validation batches of different size: means over pairs, weighted by the size of the batch."""
    batches = [pair_batch(12, 1), pair_batch(7, 2)]
    module = live(folders, tokenizer)
    module.configure_model()
    torch.nn.init.normal_(module.policy.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    (logged,) = trainer().validate(module, datamodule=Batches([], val=batches), verbose=False)
    module.eval()
    with torch.no_grad():
        policy = [torch.cat(c) for c in zip(*(module.policy_logps(b) for b in batches), strict=True)]
        rc, rr, tc, tr = (torch.cat(c) for c in zip(*(module.frozen_scores(b) for b in batches), strict=True))
    pc, pr = policy
    b1, b2 = BETAS.values()
    u = (b1 + b2) * (pc - pr) - b1 * (rc - rr) - b2 * (tc - tr)
    expected = {
        "loss": -torch.nn.functional.logsigmoid(u).mean(),
        "margin": u.mean(),
        "ref_reward_margin": b1 * ((pc - pr) - (rc - rr)).mean(),
        "teacher_reward_margin": b2 * ((pc - pr) - (tc - tr)).mean(),
        "accuracy": (u > 0).float().mean(),
        "target_margin": b2 * ((tc - tr) - (rc - rr)).mean(),
        "saturated_share": (u.abs() > math.log(99)).float().mean(),
        "overshoot_factor": torch.tensor(b2 / (b1 + b2) + 1 / (b1 + b2)),
        "beta_teacher": torch.tensor(b2),
        "chosen_logps": pc.mean(),
        "rejected_logps": pr.mean(),
        "chosen_tokens": torch.cat([b.chosen.response_mask.sum(-1) for b in batches]).float().mean(),
        "rejected_tokens": torch.cat([b.rejected.response_mask.sum(-1) for b in batches]).float().mean(),
    }
    for name, value in expected.items():
        assert logged[f"dadpo/val/{name}"] == pytest.approx(value.item(), rel=1e-4, abs=1e-4), name
    assert 0 < logged["dadpo/val/saturated_share"] < 1
    values = [logged[f"dadpo/val/target_margin_p{q}"] for q in (10, 50, 90)]
    assert values == sorted(values)
    assert values[0] < values[2]


@pytest.mark.parametrize("kind", [dict, OmegaConf.create])
def test_a_student_made_of_a_config_is_its_own_reference(kind, folders, tokenizer, batches):
    fields = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    module = live({**folders, "student": kind(fields)}, tokenizer)
    module.configure_model()
    assert module.policy.config.vocab_size == len(tokenizer)
    reference, _ = module._frozen
    assert not reference.training
    for p, q in zip(module.policy.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()  # a copy: it does not move along
    result = module.losses(batches[0])
    torch.testing.assert_close(result.loss, torch.nn.functional.softplus(result.target_margin), rtol=1e-4, atol=1e-4)
    assert not result.ref_reward_margin.abs().max() > 1e-4


def test_a_reference_of_its_own(folders, tokenizer, batches, model_folder):
    other = model_folder(seed=7, **WIDE)
    module = live(folders, tokenizer, reference=other)
    module.configure_model()
    scores = module.frozen_scores(batches[0])
    expected = response_logps(freeze(build_language_model(other)), batches[0].chosen, vocabulary=len(tokenizer))
    torch.testing.assert_close(scores.ref_chosen_logps, expected)


def test_frozen_dtype(folders, tokenizer):
    module = live(folders, tokenizer, frozen_dtype="bfloat16", gradient_checkpointing=True)
    module.configure_model()
    assert module.policy.dtype == torch.float32
    assert {model.dtype for model in module._frozen} == {torch.bfloat16}
    assert not any(model.is_gradient_checkpointing for model in module._frozen)


def test_teacher_and_student_with_different_numbers_of_rows(model_folder, tokenizer, batches, trainer):
    """As Qwen2.5's 7B and 1.5B: the same tokens, padded to different sizes."""
    narrow = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    folders = {
        "student": model_folder(seed=1, rows=151936, **narrow),
        "teacher": model_folder(seed=2, rows=152064, **narrow),
    }
    fit = trainer()
    fit.fit(live(folders, tokenizer), datamodule=Batches(batches[:1]))
    assert fit.logged_metrics["dadpo/train/loss"].isfinite()
    module = cached(folders, tokenizer, padded_vocabulary=True)
    assert module.vocabulary is None
    module.configure_model()
    padded = module.policy_logps(batches[0])[0]
    real = cached(folders, tokenizer)
    real.configure_model()
    assert (real.policy_logps(batches[0])[0] > padded + 1).all()  # 979 tokens share the mass, not 151936
