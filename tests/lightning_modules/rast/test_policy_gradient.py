"""The estimators of RAST against the exact gradient of a world that can be listed, and the advantages by hand."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.rast.advantages import advantages, check_settings
from lightning_modules.rast.drawing import draw_templates
from lightning_modules.rast.policy_gradient import (
    generator_loss,
    policy_gradient_loss,
    retriever_loss,
    token_divergence,
)

QUESTIONS = list(product(range(2), repeat=2))  # two tokens of two kinds
CLUSTERS = [0, 1, 0, 1, 1]


class World:
    """One passage, five templates, four questions of two tokens, and a reward of two parts for each pair."""

    def __init__(self, seed: int = 0):
        rng = torch.Generator().manual_seed(seed)

        def table(*shape):
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        self.scores = table(5).requires_grad_()
        self.first, self.second = table(5, 2).requires_grad_(), table(5, 2, 2).requires_grad_()
        self.parts = {"consistency": table(5, 4).exp(), "diversity": table(5, 4).exp()}
        self.reward = sum(self.parts.values())

    def question_logps(self):
        """(5, 4): log p(y|z), the sum over two tokens."""
        first, second = self.first.log_softmax(-1), self.second.log_softmax(-1)
        return torch.stack([first[:, a] + second[:, a, b] for a, b in QUESTIONS], 1)

    def exact(self, labels, count):
        """Gradients of −E[r]: for the generator as templates are drawn, for the retriever under its own policy."""
        of_template = (self.question_logps().exp() * self.reward).sum(1)
        policy = self.scores.softmax(0)
        labels = [0] * 5 if labels is None else labels
        turns = [list(dict.fromkeys(labels))[k % len(set(labels))] for k in range(count)]
        members = [[z for z in range(5) if labels[z] == turn] for turn in turns]
        drawn = sum((policy[m] / policy[m].sum()).detach() @ of_template[m] for m in members) / count
        generator = torch.autograd.grad(-drawn, [self.first, self.second], retain_graph=True)
        (retriever,) = torch.autograd.grad(-(policy @ of_template.detach()), self.scores)
        return [*generator, retriever]

    def estimate(self, labels, count, passages, baseline, rng):
        logps = self.scores.log_softmax(0).expand(passages, 5)
        drawn = draw_templates(logps, None if labels is None else [labels] * passages, count, rng)
        all_logps = self.question_logps()[drawn.positions]  # (B, K, 4)
        chosen = torch.multinomial(all_logps.detach().exp().flatten(0, 1), 1, generator=rng).view(passages, count, 1)
        parts = {n: t[drawn.positions].gather(-1, chosen).squeeze(-1) for n, t in self.parts.items()}
        best = all_logps.detach().argmax(-1, keepdim=True)
        greedy = {n: t[drawn.positions].gather(-1, best).squeeze(-1) for n, t in self.parts.items()}
        got = advantages(parts, greedy if baseline == "self_critical" else None, baseline=baseline)
        loss = generator_loss(all_logps.gather(-1, chosen).squeeze(-1), got.generator)
        terms = drawn.within_logps, drawn.cluster_logps, drawn.weights
        loss = loss + retriever_loss(*terms, got.retriever, got.reward)
        return torch.autograd.grad(loss, [self.first, self.second, self.scores])


@pytest.mark.parametrize("baseline", ["self_critical", "group", "none"])
@pytest.mark.parametrize(("labels", "count"), [(None, 3), (CLUSTERS, 2), (CLUSTERS, 3)])
def test_both_estimators_are_unbiased(baseline, labels, count):
    world, rng = World(), torch.Generator().manual_seed(1)
    blocks = [world.estimate(labels, count, 500, baseline, rng) for _ in range(100)]
    for exact, *samples in zip(world.exact(labels, count), *blocks, strict=True):
        samples = torch.stack(samples)
        error = samples.std(0) / math.sqrt(len(samples))
        assert ((samples.mean(0) - exact).abs() < 4 * error + 1e-12).all()
        assert exact.abs().max() > 15 * error.max()  # so that half of it, or twice, would be seen


def test_a_leave_one_out_baseline_in_the_clusters_term_would_be_seen():
    """The reason why it stays out: the same sums with the advantage in both terms miss the exact gradient."""
    world, rng, blocks = World(), torch.Generator().manual_seed(1), []
    for _ in range(100):
        logps = world.scores.log_softmax(0).expand(500, 5)
        drawn = draw_templates(logps, [CLUSTERS] * 500, 2, rng)
        logits = world.question_logps().detach()[drawn.positions]
        chosen = torch.multinomial(logits.exp().flatten(0, 1), 1, generator=rng).view(500, 2, 1)
        reward = world.reward[drawn.positions].gather(-1, chosen).squeeze(-1)
        advantage = advantages({"r": reward}, None, baseline="group").retriever
        loss = retriever_loss(drawn.within_logps, drawn.cluster_logps, drawn.weights, advantage, advantage)
        blocks.append(torch.autograd.grad(loss, world.scores)[0])
    samples = torch.stack(blocks)
    error = samples.std(0) / 10
    assert ((samples.mean(0) - world.exact(CLUSTERS, 2)[2]).abs() > 8 * error).any()


def test_a_baseline_lowers_the_variance():
    world = World()
    spread = {}
    for baseline in ("none", "group"):
        rng = torch.Generator().manual_seed(2)
        samples = [world.estimate(None, 3, 20, baseline, rng)[1] for _ in range(300)]
        spread[baseline] = torch.stack(samples).var(0).sum()
    assert spread["group"] < spread["none"] / 1.5


PARTS = {
    "consistency": torch.tensor([[0.9, 0.4, 0.2], [0.6, 0.6, 0.1]], dtype=torch.float64),
    "diversity": torch.tensor([[0.02, 0.10, 0.03], [0.0, 0.04, 0.05]], dtype=torch.float64),
}
GREEDY = {"consistency": PARTS["consistency"].flip(0) / 2, "diversity": PARTS["diversity"].flip(1) / 4}


def test_the_papers_advantages():
    r, b = sum(PARTS.values()), sum(GREEDY.values())
    others = torch.stack([(r[:, 1] + r[:, 2]) / 2, (r[:, 0] + r[:, 2]) / 2, (r[:, 0] + r[:, 1]) / 2], 1)
    expected = {"self_critical": (r - b, r), "group": (r - others, r - others), "none": (r, r)}
    for baseline, (generator, retriever) in expected.items():
        got = advantages(PARTS, GREEDY if baseline == "self_critical" else None, baseline=baseline)
        torch.testing.assert_close(got.generator, generator)
        torch.testing.assert_close(got.retriever, retriever)
        torch.testing.assert_close(got.reward, r)


def test_in_paper_mode_diversity_counts_once():
    """The released code adds it into an array that it also subtracts nothing from, twice."""
    more = {**PARTS, "diversity": PARTS["diversity"] + 0.01}
    for mode, times in (("paper", 1), ("authors", 2)):
        before, after = (advantages(p, None, baseline="none", reward_mode=mode) for p in (PARTS, more))
        torch.testing.assert_close(after.reward - before.reward, torch.full((2, 3), 0.01, dtype=torch.float64))
        if mode == "paper":
            torch.testing.assert_close(after.generator - before.generator, after.reward - before.reward)
        raw = PARTS["consistency"] + times * PARTS["diversity"]
        expected = raw if mode == "paper" else (raw - raw.mean()) / raw.std(correction=0)
        torch.testing.assert_close(before.generator, expected)


def test_the_parts_are_not_changed():
    before = {name: part.clone() for name, part in PARTS.items()}
    for mode in ("paper", "authors"):
        advantages(PARTS, GREEDY, reward_mode=mode)
    assert all(torch.equal(PARTS[name], part) for name, part in before.items())


def test_the_authors_advantages():
    c, d = PARTS["consistency"], PARTS["diversity"]
    for baseline, greedy, base in (
        ("self_critical", GREEDY, GREEDY["consistency"]),
        ("group", None, (c.sum(1, keepdim=True) - c) / 2),
        ("none", None, 0),
    ):
        raw = c - base + 2 * d
        got = advantages(PARTS, greedy, baseline=baseline, reward_mode="authors")
        torch.testing.assert_close(got.generator, (raw - raw.mean()) / raw.std(correction=0))
        torch.testing.assert_close(got.reward, c + d)
    equal = {"consistency": torch.ones(2, 2)}
    assert not advantages(equal, None, baseline="none", reward_mode="authors").generator.any()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 10**6))
def test_leave_one_out_sums_to_zero_and_ignores_a_shift(passages, count, seed):
    reward = torch.randn(passages, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got, shifted = (advantages({"r": r}, None, baseline="group").generator for r in (reward, reward + 3.0))
    torch.testing.assert_close(got.sum(1), torch.zeros(passages, dtype=torch.float64))
    torch.testing.assert_close(got, shifted)


def test_divergence_is_torchs_and_reaches_the_whole_vocabulary():
    rng = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    got = token_divergence(p.requires_grad_(), q)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(got, expected)
    (grad,) = torch.autograd.grad(got.sum(), p)
    assert (grad.abs() > 1e-6).all()
    assert not token_divergence(q, q).any()
    assert torch.autograd.gradcheck(lambda x: token_divergence(x, q), p)
    assert token_divergence(q.bfloat16(), q.bfloat16()).dtype == torch.float32


def test_all_terms_are_means_over_the_questions():
    """Repeating a batch changes no term: neither is a sum over B·K."""
    rng = torch.Generator().manual_seed(0)
    logps, advantage, within, cluster, reward, divergence = (torch.rand(2, 3, generator=rng) for _ in range(6))
    weights = torch.rand(2, 3, generator=rng).softmax(1)

    def terms(times):
        many = [t.repeat(times, 1) for t in (logps, advantage, within, cluster, weights, reward, divergence)]
        logps_, advantage_, *rest, divergence_ = many
        of_retriever = retriever_loss(*rest[:3], advantage_, rest[3])
        return policy_gradient_loss(generator_loss(logps_, advantage_), of_retriever, divergence_, 0.5)

    once = terms(1)
    for one, many in zip(once, terms(4), strict=True):
        torch.testing.assert_close(one, many)
    torch.testing.assert_close(once.total, once.generator + once.retriever + 0.5 * divergence.mean())


def test_rewards_carry_no_gradient():
    logps, reward = torch.rand(2, 2, requires_grad=True), torch.rand(2, 2, requires_grad=True)
    got = advantages({"r": reward}, None, baseline="none")
    assert not any(field.requires_grad for field in got)
    loss = generator_loss(logps, reward) + retriever_loss(logps, logps, reward, reward, reward)
    assert torch.autograd.grad(loss, reward, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("critic", "paper", 2, 0.1), "unknown baseline 'critic'"),
        (("group", "mine", 2, 0.1), "unknown reward_mode 'mine'"),
        (("group", "paper", 1, 0.1), "group needs 2 or more templates, got 1"),
        (("none", "paper", 0, 0.1), "1 or more templates, got 0"),
        (("none", "paper", 2, -0.1), "must not be negative, got -0.1"),
        (("none", "paper", 2, math.nan), "must not be negative, got nan"),
    ],
)
def test_wrong_settings(arguments, told):
    with pytest.raises(ValueError, match=told):
        check_settings(*arguments)


def test_wrong_shapes_are_told():
    ok, flat = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"must be \(B, K\), got \(3,\)"):
        advantages({"r": flat}, None, baseline="none")
    with pytest.raises(ValueError, match=r"\(2, 3\), \(3, 2\)"):
        advantages({"r": ok, "s": ok.T}, None, baseline="none")
    with pytest.raises(ValueError, match="self_critical needs greedy"):
        advantages({"r": ok}, None)
    with pytest.raises(ValueError, match="group has no use for greedy"):
        advantages({"r": ok}, {"r": ok}, baseline="group")
    with pytest.raises(ValueError, match="must be the same, and some"):
        advantages({"r": ok}, {"s": ok})
    with pytest.raises(ValueError, match="a part named consistency, got r"):
        advantages({"r": ok}, None, baseline="none", reward_mode="authors")
    with pytest.raises(ValueError, match="logps and advantage"):
        generator_loss(ok, ok.T)
    with pytest.raises(ValueError, match="the retriever's terms"):
        retriever_loss(ok, ok, flat, ok, ok)
    with pytest.raises(ValueError, match=r"must both be \(T, V\)"):
        token_divergence(ok, ok.T)
    with pytest.raises(ValueError, match="two scalars"):
        policy_gradient_loss(ok, ok.sum(), ok, 1.0)
