"""RASTModule: what stays frozen, resuming, settings, and what it logs and refuses."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_encoder, build_seq2seq_model
from lightning_modules.rast import StyleRetriever, consistency
from lightning_modules.rast.objective import objective
from lightning_modules.sampling import Sampling
from tests.lightning_modules.rast.rollouts import GREEDY, rollout_of

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


def same(left, right, **tolerance):
    for p, q in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def unlike(left, right):
    return any(not torch.equal(p, q) for p, q in zip(left.parameters(), right.parameters(), strict=True))


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


@pytest.mark.parametrize(("accumulate", "stop"), [(1, 3), (1, 2), (2, 1), (2, 2)])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    accumulate, stop, rast, question_batch, resumable, trainer, tmp_path
):
    """At an epoch's end and in the middle of one, with and without accumulation (3 batches: 2 updates an epoch)."""
    data = [question_batch((0, 1)), question_batch((2, 3)), question_batch((1, 3))]
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole, resumed = rast(accumulate=accumulate), rast(accumulate=accumulate)
    trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep]).fit(whole, datamodule=resumable(data))
    torch.manual_seed(5)  # whatever state the new process is in
    fit = trainer(max_epochs=3)
    fit.fit(resumed, datamodule=resumable(data), ckpt_path=tmp_path / f"step={stop}.ckpt", weights_only=True)
    assert fit.global_step == 9 / accumulate + 1.5 * (accumulate - 1)
    same(resumed.policy, whole.policy, rtol=0, atol=0)
    same(resumed.retriever.query_encoder, whole.retriever.query_encoder, rtol=0, atol=0)
    start = rast()
    start.configure_model()
    assert unlike(start.policy, whole.policy)


def test_the_generators_reward_rises(rast, small_t5, question_batch, batches, trainer):
    """A reward that asks for one word can be learnt by the generator alone."""
    rewards = {"red": lambda asked: torch.tensor([y.split().count("red") / 6 for y in asked.questions])}
    settings = {"rewards": rewards, "reward_weights": {"red": 1.0}, "qa": None, "vanilla": None, "kl_weight": 0.0}
    settings["generator"] = {**small_t5, "initializer_factor": 1.0}  # unsure: every word has its chance
    settings["sampling"] = Sampling(max_new_tokens=6)
    for baseline in ("self_critical", "group"):
        torch.manual_seed(0)
        module = rast(**settings, baseline=baseline, train_retriever=False, clip=1.0)
        before = rollout_of(module, question_batch()).parts["red"].mean()
        trainer(max_epochs=40).fit(module, datamodule=batches([question_batch()]))
        after = rollout_of(module, question_batch()).parts["red"].mean()
        assert after > before + 0.4, baseline


def test_the_retrievers_reward_rises(rast, question_batch, batches, trainer):
    """A reward of the template alone can be learnt by the retriever alone: p(who …) rises towards its bound."""
    rewards = {"who": lambda asked: torch.tensor([float(z.startswith("who")) for z in asked.templates])}
    settings = {"rewards": rewards, "reward_weights": {"who": 1.0}, "qa": None, "vanilla": None, "kl_weight": 0.0}
    batch = question_batch()
    for baseline, cluster in (("none", None), ("group", None), ("none", lambda t, k: [i % k for i in range(len(t))])):
        module = rast(**settings, baseline=baseline, retriever={"cluster": cluster, "candidates": 15})
        module.configure_model()

        def mass(module=module):
            queries = module.questioner.first_templates(None, batch)
            found = module.retriever.retrieve(queries, batch.own_template)
            who = torch.tensor([t.startswith("who") for t in module.retriever.bank.texts])
            return (found.logps.exp() * who[found.positions]).sum(1).mean().item()

        before = mass()
        trainer(max_epochs=60).fit(module, datamodule=batches([batch]))
        assert mass() > before + 0.06, (baseline, cluster)


def fitted(rast, data, trainer, epochs=1, **settings):
    module = rast(**settings)
    fit = trainer(max_epochs=epochs, log_every_n_steps=1)
    fit.fit(module, datamodule=data)
    return module, fit


def one_each(templates, count):
    """As many clusters as templates: nothing is left to chance."""
    return list(range(len(templates)))


CERTAIN = {
    "sampling": GREEDY,
    "retriever": {"cluster": one_each, "candidates": 3},
    "baseline": "none",
    "rewards": {
        "consistency": consistency,
        "length": lambda asked: torch.tensor([len(z) / 9 for z in asked.templates]),
    },
    "reward_weights": {"consistency": 1.0, "length": 1.0},  # templates of different worth, though questions are alike
    "clip": math.inf,
    "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "retriever_optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


def flat_schedule(monkeypatch):
    monkeypatch.setattr(
        "lightning_modules.rast.optimisation.get_cosine_schedule_with_warmup",
        lambda optimizer, *_: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    )


def test_accumulated_batches_give_their_mean(rast, question_batch, batches, trainer, monkeypatch):
    """Of equal batches the mean is each; one that is left over at an epoch's end counts in full."""
    flat_schedule(monkeypatch)
    b = question_batch()
    once, _ = fitted(rast, batches([b]), trainer, **CERTAIN)
    start = rast()
    start.configure_model()
    for part, other in zip(once.trained_parts(), start.trained_parts(), strict=True):
        assert max((p - q).abs().max() for p, q in zip(part.parameters(), other.parameters(), strict=True)) > 1e-4
    for accumulate, given, like in ((2, [b, b], once), (4, [b, b, b], once)):
        module, fit = fitted(rast, batches(given), trainer, accumulate=accumulate, **CERTAIN)
        assert fit.global_step == 1
        same(module.policy, like.policy, rtol=1e-4, atol=1e-6)
        same(module.retriever.query_encoder, like.retriever.query_encoder, rtol=1e-4, atol=1e-6)
    twice, _ = fitted(rast, batches([b, b]), trainer, **CERTAIN)
    module, fit = fitted(rast, batches([b, b, b]), trainer, accumulate=2, **CERTAIN)
    assert fit.global_step == 2
    same(module.policy, twice.policy, rtol=1e-4, atol=1e-6)


def test_the_schedule_counts_updates(rast, question_batch, batches, trainer):
    """Half the steps are warm-up; five batches in twos are three updates."""
    rates = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            metrics = trainer.logged_metrics
            rates.append(tuple(metrics[f"rast/train/{k}"].item() for k in ("lr", "retriever_lr") if f"rast/train/{k}" in metrics))  # fmt: skip  # noqa: E501

    module = rast(
        accumulate=2,
        warmup=0.5,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.4),
        retriever_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.2),
    )
    data = batches([question_batch((i % 4,)) for i in range(5)])
    trainer(max_epochs=2, callbacks=[Watch()], log_every_n_steps=1).fit(module, datamodule=data)
    expected = [0.4 * x for x in (0, 1 / 3, 2 / 3, 1, 0.75, 0.25)]
    seen = [rates[i] for i in (1, 3, 4, 6, 8, 9)]
    assert [lr for lr, _ in seen] == pytest.approx(expected)
    assert [lr for _, lr in seen] == pytest.approx([lr / 2 for lr in expected])


def test_each_part_is_clipped_by_itself(rast, question_batch, batches, trainer, folders):
    clip = 1e-3
    settings = {**CERTAIN, "clip": clip}
    module, fit = fitted(rast, batches([question_batch()]), trainer, **settings)
    starts = build_seq2seq_model(folders["generator"]), build_encoder(folders["generator"])
    for key, part, start in zip(("", "retriever_"), module.trained_parts(), starts, strict=True):
        assert fit.logged_metrics[f"rast/train/{key}grad_norm"] > clip
        moves = [(p - q).norm() for p, q in zip(part.parameters(), start.parameters(), strict=True)]
        assert torch.stack(moves).norm().item() == pytest.approx(0.1 * clip, rel=1e-2)


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


def test_max_steps_counts_updates(rast, question_batch, batches, trainer):
    _, fit = fitted(rast, batches([question_batch((0,))] * 5), lambda **k: trainer(**{**k, "max_epochs": -1, "max_steps": 3}))  # fmt: skip  # noqa: E501
    assert fit.global_step == 3
