"""RASTModule: what stays frozen, what each setting changes, what it logs, shows and exports."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_modules.language_model import build_encoder, build_seq2seq_model
from lightning_modules.rast import StyleRetriever
from lightning_modules.rast.objective import objective
from lightning_modules.sampling import Sampling
from tests.lightning_modules.rast.rollouts import fitted, rollout_of, same, unlike

KEYS = {
    "loss",
    "generator_loss",
    "retriever_loss",
    "kl",
    "reward",
    "reward_consistency",
    "reward_diversity",
    "greedy_reward_consistency",
    "greedy_reward_diversity",
    "advantage_std",
    "copy_rate",
    "question_tokens",
    "unfinished_share",
    "distinct_templates",
    "retriever_entropy",
}


class Observer(Callback):
    def __init__(self):
        self.steps, self.trained = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(trainer.global_step)
        self.trained = [{id(p) for g in o.param_groups for p in g["params"]} for o in trainer.optimizers]


def test_frozen_models_stay_out_of_everything(rast, question_batch, batches, trainer, tmp_path, folders):
    module, observer = rast(), Observer()
    fit = trainer(max_epochs=2, callbacks=[observer])
    fit.fit(module, datamodule=batches([question_batch()], [question_batch((1, 2))]))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    start = {name: build_seq2seq_model(folder) for name, folder in folders.items()}
    same(module._frozen.reference, start["generator"], rtol=0, atol=0)
    same(module._frozen.qa, start["qa"], rtol=0, atol=0)
    same(module._frozen.vanilla, start["vanilla"], rtol=0, atol=0)
    assert unlike(module.policy, start["generator"])
    assert unlike(module.retriever.query_encoder, build_encoder(folders["generator"]))
    same(module.retriever.bank_encoder, build_encoder(folders["generator"]), rtol=0, atol=0)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    expected = {f"policy.{n}" for n in module.policy.state_dict()}
    expected |= {f"retriever.query_encoder.{n}" for n in module.retriever.query_encoder.state_dict()}
    assert set(kept) == expected
    assert observer.trained == [{id(p) for p in part.parameters()} for part in module.trained_parts()]
    assert observer.steps == [1, 2]  # updates, not optimizers' steps


def test_each_setting_changes_what_it_says(rast, question_batch, batches, trainer, folders):
    data = batches([question_batch((0, 1)), question_batch((2, 3))])
    plain, _ = fitted(rast, data, trainer)
    again, _ = fitted(rast, data, trainer)
    same(plain.policy, again.policy, rtol=0, atol=0)
    for setting in (
        {"kl_weight": 5.0},
        {"baseline": "group"},
        {"baseline": "none"},
        {"reward_mode": "authors"},
        {"reward_weights": {"consistency": 1.0, "diversity": 2.0}},
        {"templates_per_passage": 2},
        {"sampling": Sampling(temperature=0.3, max_new_tokens=6)},
        {"seed": 1},
        {"qa": folders["vanilla"]},
        {"vanilla": None, "seed": 0},
        {"retriever": {"cluster": None}},
        {"retriever": {"candidates": 5}},
        {"warmup": 1.0},
        {"clip": 0.01, "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)},
    ):
        module, _ = fitted(rast, data, trainer, **setting)
        changed = unlike(module.policy, plain.policy) or unlike(module.retriever, plain.retriever)
        assert changed, setting


def test_a_retriever_that_is_not_trained(rast, question_batch, batches, trainer, folders):
    module, fit = fitted(rast, batches([question_batch()]), trainer, train_retriever=False)
    assert len(fit.optimizers) == 1
    same(module.retriever.query_encoder, build_encoder(folders["generator"]), rtol=0, atol=0)
    assert unlike(module.policy, build_seq2seq_model(folders["generator"]))
    assert fit.logged_metrics["rast/train/retriever_loss"] == 0
    assert "rast/train/retriever_lr" not in fit.logged_metrics


def test_frozen_dtype(rast, question_batch):
    module = rast(frozen_dtype="bfloat16")
    rollout = rollout_of(module, question_batch())
    assert {model.dtype for model in module._frozen} == {torch.bfloat16}
    assert module.policy.dtype == torch.float32
    loss, _ = objective(module.objective, module.policy, module._frozen.reference, rollout, module.vocabulary)
    assert loss.total.isfinite()


def test_it_logs_exactly_what_is_documented(rast, question_batch, batches, trainer):
    b = question_batch()
    _, fit = fitted(rast, batches([b], [b]), trainer, name="mine")
    own = {"lr", "retriever_lr", "grad_norm", "retriever_grad_norm"}
    expected = {f"mine/train/{key}" for key in KEYS | own} | {f"mine/val/{key}" for key in KEYS}
    assert set(fit.logged_metrics) == expected
    assert all(value.isfinite() for value in fit.logged_metrics.values())


def test_monitors_are_what_their_names_say(rast, question_batch, batches, trainer):
    b = question_batch()
    module, fit = fitted(rast, batches([b], [b]), trainer)
    (logged,) = trainer().validate(module, datamodule=batches([], [b]), verbose=False)
    rollout = rollout_of(module, b, seed=1)  # what validation draws from for batch 0 of seed 0
    asked = rollout.asked
    words = [[w in e.context.split() for w in y.replace("?", "").split()] for y, e in zip(asked.questions, asked.examples, strict=True)]  # fmt: skip  # noqa: E501
    copied = [sum(row) / len(row) if row else 0.0 for row in words]
    assert logged["rast/val/copy_rate"] == pytest.approx(sum(copied) / len(copied), abs=1e-5)
    assert logged["rast/val/question_tokens"] == pytest.approx((rollout.written.labels != -100).sum(1).float().mean())
    assert logged["rast/val/unfinished_share"] == pytest.approx(1 - rollout.written.finished.float().mean())
    distinct = len({t for row in rollout.styles.templates for t in row})
    assert logged["rast/val/distinct_templates"] == pytest.approx(distinct / 12)
    r = rollout.parts["consistency"] + 0.1 * rollout.parts["diversity"]
    b = rollout.greedy_parts["consistency"] + 0.1 * rollout.greedy_parts["diversity"]
    assert logged["rast/val/reward"] == pytest.approx(r.mean().item(), rel=1e-4)
    assert logged["rast/val/advantage_std"] == pytest.approx((r - b).std(correction=0).item(), rel=1e-3, abs=1e-6)
    assert 0 < logged["rast/val/retriever_entropy"] <= math.log(12) + 1e-6
    assert logged["rast/val/kl"] > 0


def test_the_sample_table(rast, question_batch, batches, trainer):
    module = rast(sample_rows=5)
    data = batches([], [question_batch((0,)), question_batch((2, 3))])
    trainer().validate(module, datamodule=data, verbose=False)
    first = list(module.samples)
    assert [row.example for row in first] == [f"facts.jsonl:{i}" for i in (1, 1, 1, 3, 3)]
    assert {row.template for row in first} <= set(module.retriever.bank.texts)
    assert first[0].answer == "ada moor"
    for row in first:
        context = next(e.context for e in question_batch().examples if e.id == row.example)
        ids = torch.tensor([module.questioner.encoder.qa(context, row.question)])
        made = module._frozen.qa.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0]
        assert row.qa_answer == module.tokenizer.decode(made, skip_special_tokens=True).strip()
    trainer().validate(module, datamodule=data, verbose=False)
    assert module.samples == first  # a new table, and the same draws


def test_what_it_exports_can_go_on(rast, question_batch, batches, trainer, tmp_path, words_tokenizer):
    module, _ = fitted(rast, batches([question_batch()]), trainer)
    module.export(tmp_path / "model")
    same(build_seq2seq_model(tmp_path / "model"), module.policy, rtol=0, atol=0)
    bank = SimpleNamespace(texts=module.retriever.bank.texts)
    loaded = StyleRetriever(tmp_path / "model" / "retriever", words_tokenizer, bank)
    torch.testing.assert_close(loaded.bank_vectors(), module.retriever.bank_vectors())
    torch.testing.assert_close(loaded.embed(["who built ?"]), module.retriever.embed(["who built ?"]))
    assert unlike(loaded.query_encoder, loaded.bank_encoder)
    with pytest.raises(RuntimeError, match="nothing to export"):
        rast().export(tmp_path / "none")
