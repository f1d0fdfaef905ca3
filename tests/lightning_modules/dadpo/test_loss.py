"""The daDPO loss: each identity that follows from its definition, and its diagnostics."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.dadpo import dadpo_loss, overshoot_factor
from lightning_modules.dadpo.loss import SATURATION, DaDPOLoss, check_betas

BETAS = [(0.05, 0.05), (0.1, 0.0), (0.0, 0.1), (1.0, 1.0), (0.3, 2.0)]


def logps(pairs: int = 6, seed: int = 0, spread: float = 20.0) -> list[torch.Tensor]:
    """Six (B,) float64 tensors: policy, reference and teacher, chosen and rejected."""
    rng = torch.Generator().manual_seed(seed)
    return [-spread * torch.rand(pairs, generator=rng, dtype=torch.float64) for _ in range(6)]


def dpo(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    """DPO as its authors write it (sigmoid)."""
    ratios = (policy_chosen - policy_rejected) - (ref_chosen - ref_rejected)
    return -F.logsigmoid(beta * ratios)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), BETAS)
def test_the_definition(beta_ref, beta_teacher):
    pc, pr, rc, rr, tc, tr = logps()
    u = (beta_ref + beta_teacher) * (pc - pr) - beta_ref * (rc - rr) - beta_teacher * (tc - tr)
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=beta_ref, beta_teacher=beta_teacher)
    close(result.loss, torch.log1p(torch.exp(-u)))
    close(result.margin, u)


def test_without_the_teacher_it_is_dpo():
    pc, pr, rc, rr, tc, tr = logps()
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=0.1, beta_teacher=0.0)
    close(result.loss, dpo(pc, pr, rc, rr, 0.1))
    close(result.loss, dadpo_loss(pc, pr, rc, rr, 9 * tc, tr / 7, beta_ref=0.1, beta_teacher=0.0).loss)
    assert not result.target_margin.any()


def test_without_the_reference_it_is_dpo_from_the_teacher():
    pc, pr, rc, rr, tc, tr = logps()
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=0.0, beta_teacher=0.1)
    close(result.loss, dpo(pc, pr, tc, tr, 0.1))


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), BETAS)
def test_it_is_dpo_with_the_sum_of_betas_and_a_mixed_reference(beta_ref, beta_teacher):
    pc, pr, rc, rr, tc, tr = logps()
    total = beta_ref + beta_teacher
    mixed = [(beta_ref * r + beta_teacher * t) / total for r, t in ((rc, tc), (rr, tr))]
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=beta_ref, beta_teacher=beta_teacher)
    close(result.loss, dpo(pc, pr, *mixed, total))


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), BETAS)
def test_it_is_dpo_with_a_target_margin_for_each_pair(beta_ref, beta_teacher):
    pc, pr, rc, rr, tc, tr = logps()
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=beta_ref, beta_teacher=beta_teacher)
    target = beta_teacher * ((tc - tr) - (rc - rr))
    close(result.target_margin, target)
    close(result.margin, (beta_ref + beta_teacher) * ((pc - pr) - (rc - rr)) - target)


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), BETAS)
def test_at_the_start_it_is_softplus_of_the_target_margin(beta_ref, beta_teacher):
    _, _, rc, rr, tc, tr = logps()
    result = dadpo_loss(rc, rr, rc, rr, tc, tr, beta_ref=beta_ref, beta_teacher=beta_teacher)
    close(result.loss, F.softplus(beta_teacher * ((tc - tr) - (rc - rr))))
    if beta_teacher:
        assert (result.loss - math.log(2)).abs().max() > 0.1
    else:
        close(result.loss, torch.full_like(rc, math.log(2)))


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), BETAS)
def test_the_gradient_is_the_papers(beta_ref, beta_teacher):
    pc, pr, rc, rr, tc, tr = logps()
    pc, pr = pc.requires_grad_(), pr.requires_grad_()
    result = dadpo_loss(pc, pr, rc, rr, tc, tr, beta_ref=beta_ref, beta_teacher=beta_teacher)
    on_chosen, on_rejected = torch.autograd.grad(result.loss.sum(), [pc, pr])
    expected = -(beta_ref + beta_teacher) * torch.sigmoid(-result.margin)
    close(on_chosen, expected)
    close(on_rejected, -expected)


def test_gradcheck():
    pc, pr, *frozen = logps(3, spread=5.0)

    def function(pc, pr):
        return dadpo_loss(pc, pr, *frozen, beta_ref=0.3, beta_teacher=0.7).loss

    assert torch.autograd.gradcheck(function, (pc.requires_grad_(), pr.requires_grad_()))


class World:
    """Responses to one prompt that can be listed: a teacher's and a reference's distribution over them."""

    def __init__(self, responses: int = 5, seed: int = 0):
        rng = torch.Generator().manual_seed(seed)
        self.teacher, self.reference = (
            torch.randn(responses, generator=rng, dtype=torch.float64).log_softmax(0) for _ in range(2)
        )
        self.chosen, self.rejected = (
            i.flatten() for i in torch.meshgrid(*[torch.arange(responses)] * 2, indexing="ij")
        )
        self.weights = (self.teacher[self.chosen] + self.reference[self.rejected]).exp()

    def delta(self, logps):
        return logps[self.chosen] - logps[self.rejected]

    def expected_loss(self, policy, beta_ref, beta_teacher):
        sides = [m[side] for m in (policy, self.reference, self.teacher) for side in (self.chosen, self.rejected)]
        return (self.weights * dadpo_loss(*sides, beta_ref=beta_ref, beta_teacher=beta_teacher).loss).sum()

    def optimum(self, beta_ref, beta_teacher):
        """Log-probabilities (up to a constant) that minimise the exact expected loss."""
        policy = torch.zeros_like(self.teacher, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [policy], max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            loss = self.expected_loss(policy, beta_ref, beta_teacher)
            loss.backward()
            return loss

        for _ in range(10):
            optimizer.step(closure)
        assert policy.grad is not None
        assert policy.grad.abs().max() < 1e-9
        return policy.detach()


def kl(p, q):
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_target_is_the_sum_of_both_kls(seed):
    world = World(seed=seed)
    sides = [m[side] for m in (world.reference,) * 2 + (world.teacher,) for side in (world.chosen, world.rejected)]
    result = dadpo_loss(*sides, beta_ref=0.5, beta_teacher=1.0)
    expected = kl(world.teacher, world.reference) + kl(world.reference, world.teacher)
    close((world.weights * result.target_margin).sum(), expected)
    assert expected > 0.1


@pytest.mark.parametrize(("beta_ref", "beta_teacher"), [(1.0, 1.0), (0.5, 1.0), (0.7, 0.0), (0.0, 1.5), (0.2, 0.3)])
def test_the_population_optimum_overshoots_by_the_factor_that_is_logged(beta_ref, beta_teacher):
    world = World()
    policy = world.optimum(beta_ref, beta_teacher)
    factor = overshoot_factor(beta_ref, beta_teacher)
    target = world.delta(world.reference) + factor * (world.delta(world.teacher) - world.delta(world.reference))
    torch.testing.assert_close(world.delta(policy), target, rtol=1e-5, atol=1e-5)


def test_overshoot_of_one_lands_on_the_teacher():
    assert overshoot_factor(1.0, 1.0) == 1.0  # B = 2, s = 1/2
    assert overshoot_factor(1.0, 0.0) == 1.0  # DPO at B = 1
    world = World(seed=4)
    for betas in ((1.0, 1.0), (1.0, 0.0)):
        torch.testing.assert_close(world.delta(world.optimum(*betas)), world.delta(world.teacher), rtol=1e-5, atol=1e-5)


def test_with_enough_data_it_is_dpo_at_another_beta():
    world = World(seed=5)
    total, share = 1.5, 0.4
    dadpo = world.optimum(total * (1 - share), total * share)
    ddpo = world.optimum(total / (1 + share * total), 0.0)
    torch.testing.assert_close(world.delta(dadpo), world.delta(ddpo), rtol=1e-5, atol=1e-5)


def test_small_betas_overshoot_far():
    assert overshoot_factor(0.1, 0.0) == pytest.approx(10.0)
    assert overshoot_factor(0.0, 0.1) == pytest.approx(11.0)
    assert overshoot_factor(0.05, 0.05) == pytest.approx(10.5)


nats = st.floats(-300, 0, allow_nan=False)
betas = st.tuples(st.floats(0, 5), st.floats(0, 5)).filter(lambda b: sum(b) > 1e-3)


@given(st.lists(st.tuples(*[nats] * 6), min_size=1, max_size=4), betas)
def test_diagnostics_of_any_batch(rows, betas):
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    result = dadpo_loss(*columns, beta_ref=betas[0], beta_teacher=betas[1])
    torch.testing.assert_close(result.margin, result.chosen_reward - result.rejected_reward, rtol=1e-9, atol=1e-9)
    parts = result.ref_reward_margin + result.teacher_reward_margin
    torch.testing.assert_close(result.margin, parts, rtol=1e-9, atol=1e-9)
    assert (result.loss >= 0).all()
    assert result.loss.isfinite().all()
    assert ((result.margin > 0) == (result.loss < math.log(2))).logical_or(result.margin.abs() < 1e-12).all()
    assert (result.accuracy == (result.margin > 0)).all()
    assert (result.saturated == (result.margin.abs() > math.log(99))).all()


@given(st.tuples(*[nats] * 6), betas)
def test_swapping_the_responses_turns_the_margin(row, betas):
    pc, pr, rc, rr, tc, tr = (torch.tensor([value], dtype=torch.float64) for value in row)
    names = {"beta_ref": betas[0], "beta_teacher": betas[1]}
    there, back = dadpo_loss(pc, pr, rc, rr, tc, tr, **names), dadpo_loss(pr, pc, rr, rc, tr, tc, **names)
    torch.testing.assert_close(there.margin, -back.margin, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.target_margin, -back.target_margin, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.loss - back.loss, -there.margin, rtol=1e-9, atol=1e-9)


@given(st.tuples(*[nats] * 6), betas, st.floats(-50, 50))
def test_what_both_responses_share_cancels(row, betas, shift):
    columns = [torch.tensor([value], dtype=torch.float64) for value in row]
    names = {"beta_ref": betas[0], "beta_teacher": betas[1]}
    moved = dadpo_loss(*columns[:2], *(column + shift for column in columns[2:4]), *columns[4:], **names)
    torch.testing.assert_close(moved.margin, dadpo_loss(*columns, **names).margin, rtol=1e-9, atol=1e-9)


def test_saturation_is_where_the_sigmoid_is_within_one_percent_of_its_end():
    assert 1 / (1 + math.exp(-SATURATION)) == pytest.approx(0.99)


def test_only_the_loss_carries_a_gradient():
    columns = [column.requires_grad_() for column in logps()]
    result = dadpo_loss(*columns, beta_ref=0.5, beta_teacher=0.5)
    assert [name for name in DaDPOLoss._fields if getattr(result, name).requires_grad] == ["loss"]
    assert all(getattr(result, name).shape == (6,) for name in DaDPOLoss._fields)


def test_extreme_margins_stay_finite_in_value_and_gradient():
    policy = torch.tensor([-1e4, 0.0], requires_grad=True)
    zero = torch.zeros(2)
    result = dadpo_loss(policy, policy.detach().flip(0), zero, zero, zero, zero, beta_ref=1.0, beta_teacher=1.0)
    result.loss.sum().backward()
    assert result.loss.isfinite().all()
    assert policy.grad.tolist() == pytest.approx([-2.0, 0.0])


@pytest.mark.parametrize(
    "betas", [(0.0, 0.0), (-0.1, 0.2), (0.2, -0.1), (math.nan, 0.1), (0.1, math.nan), (math.inf, 0.1)]
)
def test_wrong_betas_raise(betas):
    with pytest.raises(ValueError, match="beta_ref and beta_teacher must not be negative"):
        dadpo_loss(*logps(), beta_ref=betas[0], beta_teacher=betas[1])
    with pytest.raises(ValueError, match="must be positive"):
        check_betas(*betas)
    with pytest.raises(ValueError, match="must be positive"):
        overshoot_factor(*betas)


@pytest.mark.parametrize("position", range(6))
def test_wrong_shapes_raise_instead_of_broadcasting(position):
    columns = logps()
    columns[position] = columns[position][:1]
    with pytest.raises(ValueError, match=r"one shape \(B,\)"):
        dadpo_loss(*columns, beta_ref=0.1, beta_teacher=0.1)
