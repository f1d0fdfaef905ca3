"""The loss of a rollout against a naive one, question by question."""

import math

import pytest
import torch

from lightning_modules.language_model import build_seq2seq_model, freeze
from lightning_modules.rast.objective import objective
from lightning_modules.sampling import Sampling
from tests.lightning_modules.rast.rollouts import moved, rollout_of


def naive(module, rollout, baseline, reward_mode, weight=0.1, beta=0.014):
    """The loss, question by question, from transformers' own forward passes."""
    encoder, tokenizer = module.questioner.encoder, module.tokenizer
    start = freeze(build_seq2seq_model(module.source, tokenizer))
    count = module.questioner.count
    logps, kls = [], []
    for i, example in enumerate(rollout.asked.examples):
        ids = torch.tensor([encoder.styled(example, rollout.asked.templates[i])])
        labels = rollout.written.labels[i][rollout.written.labels[i] != -100][None]
        ours, theirs = (m(input_ids=ids, labels=labels).logits[0].log_softmax(-1) for m in (module.policy, start))
        logps.append(ours.gather(1, labels[0, :, None]).sum())
        kls.append(torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="sum"))
    c, d = (rollout.parts[name].flatten().tolist() for name in ("consistency", "diversity"))
    r = [x + weight * y for x, y in zip(c, d, strict=True)]
    greedy = rollout.greedy_parts
    advantage = []
    for i in range(len(r)):
        row = range(i // count * count, i // count * count + count)
        of = c if reward_mode == "authors" else r
        if baseline == "group":
            base = sum(of[j] for j in row if j != i) / (count - 1)
        elif baseline == "self_critical":
            base = greedy["consistency"].flatten()[i].item()
            base += 0 if reward_mode == "authors" else weight * greedy["diversity"].flatten()[i].item()
        else:
            base = 0.0
        advantage.append((c[i] - base + 2 * weight * d[i]) if reward_mode == "authors" else r[i] - base)
    if reward_mode == "authors":
        mean = sum(advantage) / len(advantage)
        spread = math.sqrt(sum((a - mean) ** 2 for a in advantage) / len(advantage))
        advantage = [(a - mean) / spread for a in advantage]
    generator = -sum(a * logp for a, logp in zip(advantage, logps, strict=True)) / len(logps)
    draw = rollout.styles.draw
    retriever = 0.0
    for i in range(len(r)):
        b, k = divmod(i, count)
        others = [r[b * count + j] for j in range(count) if j != k]
        base = sum(others) / len(others) if baseline == "group" else 0.0
        term = (r[i] - base) * draw.within_logps[b, k] + r[i] * draw.cluster_logps[b, k]
        retriever = retriever - draw.cluster_logps[b, k].exp().item() * term / (len(r) / count)
    return generator + retriever + beta * sum(kls) / len(kls)


@pytest.mark.parametrize("reward_mode", ["paper", "authors"])
@pytest.mark.parametrize("baseline", ["self_critical", "group", "none"])
def test_loss_and_gradients_are_the_naive_ones(baseline, reward_mode, rast, question_batch, monkeypatch):
    if baseline != "none":  # long and short questions go through the models by themselves
        monkeypatch.setattr("lightning_modules.rast.objective.pass_tokens", lambda device: 1)
    sampling = Sampling(max_new_tokens=12)  # some end before, some do not
    module = moved(rast(baseline=baseline, reward_mode=reward_mode, sampling=sampling))
    rollout = rollout_of(module, question_batch((0, 1, 2, 3) * 2))
    assert (rollout.greedy_parts is not None) == (baseline == "self_critical")
    assert rollout.written.finished.any()
    assert not rollout.written.finished.all()
    loss, _ = objective(module.objective, module.policy, module._frozen.reference, rollout, module.vocabulary)
    expected = naive(module, rollout, baseline, reward_mode)
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-5)
    assert loss.divergence > 0.01
    grads = []
    for value in (loss.total, expected):
        parameters = [p for part in module.trained_parts() for p in part.parameters()]
        grads.append(torch.autograd.grad(value, parameters, retain_graph=True))
    for p, q in zip(*grads, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-6)
    assert max(p.abs().max() for p in grads[0]) > 1e-3


def test_the_divergence_starts_at_zero(rast, question_batch):
    module = rast()
    rollout = rollout_of(module, question_batch())
    loss, _ = objective(module.objective, module.policy, module._frozen.reference, rollout, module.vocabulary)
    assert loss.divergence.abs() < 1e-5
