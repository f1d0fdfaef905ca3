"""RASTModule over many steps: rewards rise; updates, schedules, clipping; a run that goes on where it stopped."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_modules.language_model import build_encoder, build_seq2seq_model
from lightning_modules.rast import consistency
from lightning_modules.sampling import Sampling
from tests.lightning_modules.rast.rollouts import GREEDY, fitted, rollout_of, same, unlike


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


def test_max_steps_counts_updates(rast, question_batch, batches, trainer):
    _, fit = fitted(rast, batches([question_batch((0,))] * 5), lambda **k: trainer(**{**k, "max_epochs": -1, "max_steps": 3}))  # fmt: skip  # noqa: E501
    assert fit.global_step == 3
