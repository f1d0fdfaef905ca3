"""The variants' maths: identities, naive loops, and what is refused."""

import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.batches import PairScores
from datamodules.wrong_input import WrongInput
from lightning_modules.dadpo import Variants, check_dadpo, dadpo_loss, overshoot_factor
from lightning_modules.dadpo.variants import delta_te, per_token, ramp, scaled_beta_teacher, sft_loss

BETAS = (0.3, 0.7)
SHAPES = ("constant", "linear", "cosine")


def columns(pairs: int = 6, seed: int = 0, spread: float = 20.0) -> list[torch.Tensor]:
    """Policy, reference and teacher, chosen and rejected of each, in float64."""
    rng = torch.Generator().manual_seed(seed)
    return [-spread * torch.rand(pairs, generator=rng, dtype=torch.float64) for _ in range(6)]


def lengths(pairs: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(1, 30, (pairs,), generator=rng).float() for _ in range(2))  # type: ignore[return-value]


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_by_default_it_is_the_papers_loss():
    pc, pr, *frozen = columns()
    got = Variants().losses((pc, pr), PairScores(*frozen), lengths(), BETAS)
    for ours, theirs in zip(got, dadpo_loss(pc, pr, *frozen, beta_ref=0.3, beta_teacher=0.7), strict=True):
        assert torch.equal(ours, theirs)
    assert Variants().betas(0.3, 0.7, 0.0) == BETAS
    assert Variants().overshoot_factor(BETAS, lengths()) == overshoot_factor(*BETAS)


def test_normalised_it_is_the_formula_pair_by_pair():
    pc, pr, rc, rr, tc, tr = columns()
    n = lengths()
    got = Variants(length_normalised=True).losses((pc, pr), PairScores(rc, rr, tc, tr), n, BETAS)
    for i in range(len(pc)):
        a, b = n[0][i].item(), n[1][i].item()
        policy, reference, teacher = (
            one[i].item() / a - other[i].item() / b for one, other in ((pc, pr), (rc, rr), (tc, tr))
        )
        u = 1.0 * policy - 0.3 * reference - 0.7 * teacher
        assert got.margin[i].item() == pytest.approx(u, rel=1e-12)
        assert got.loss[i].item() == pytest.approx(math.log1p(math.exp(-u)), rel=1e-12)
        assert got.target_margin[i].item() == pytest.approx(0.7 * (teacher - reference), rel=1e-12)
    margins = 0.7 * Variants(length_normalised=True).delta_te(PairScores(rc, rr, tc, tr), n)
    close(margins, got.target_margin)
    close(0.7 * Variants().delta_te(PairScores(rc, rr, tc, tr), n), 0.7 * ((tc - tr) - (rc - rr)))


@pytest.mark.parametrize("tokens", [1, 7, 250])
def test_of_equal_lengths_it_is_dadpo_at_the_betas_divided_by_them(tokens):
    pc, pr, *frozen = columns()
    n = (torch.full((6,), float(tokens)),) * 2
    variants = Variants(length_normalised=True)
    got = variants.losses((pc, pr), PairScores(*frozen), n, BETAS)
    expected = dadpo_loss(pc, pr, *frozen, beta_ref=BETAS[0] / tokens, beta_teacher=BETAS[1] / tokens)
    for ours, theirs in zip(got, expected, strict=True):
        close(ours, theirs)
    factor = overshoot_factor(BETAS[0] / tokens, BETAS[1] / tokens)
    assert variants.overshoot_factor(BETAS, n) == pytest.approx(factor, rel=1e-12)


def test_the_gradient_reaches_the_policy_through_the_division():
    pc, pr, *frozen = columns(3, spread=3.0)
    n = (torch.tensor([2.0, 5.0, 9.0]), torch.tensor([4.0, 1.0, 3.0]))

    def function(pc, pr):
        return Variants(length_normalised=True).losses((pc, pr), PairScores(*frozen), n, BETAS).loss

    assert torch.autograd.gradcheck(function, (pc.requires_grad_(), pr.requires_grad_()))


def test_the_sft_term_counts_each_token_alike():
    logps, tokens = torch.tensor([-3.0, -10.0], dtype=torch.float64), torch.tensor([1.0, 9.0])
    assert sft_loss(logps, tokens).item() == pytest.approx(1.3)
    assert per_token(logps, tokens).tolist() == pytest.approx([-3.0, -10 / 9])


@given(st.sampled_from(SHAPES), st.floats(0, 2), st.floats(0, 2), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_goes_from_its_start_to_its_end_and_never_back(shape, start, end, one, other):
    assert ramp(shape, start, end, 1.0) == pytest.approx(end)
    assert ramp(shape, start, end, 0.0) == pytest.approx(end if shape == "constant" else start)
    early, late = (ramp(shape, start, end, done) for done in sorted((one, other)))
    assert abs(late - end) <= abs(early - end) + 1e-12
    assert min(start, end) - 1e-12 <= early <= max(start, end) + 1e-12


def test_ramps_in_the_middle():
    assert ramp("linear", 1.0, 3.0, 0.25) == 1.5
    assert ramp("cosine", 1.0, 3.0, 0.25) == pytest.approx(1 + (1 - math.sqrt(0.5)))
    assert ramp("cosine", 1.0, 3.0, 0.5) == pytest.approx(2.0)


@given(st.sampled_from(SHAPES), st.floats(0, 2), st.floats(0.01, 2), st.floats(0, 1))
def test_the_sum_of_the_betas_stays(shape, beta_ref, beta_teacher, done):
    start = None if shape == "constant" else (beta_ref + beta_teacher) / 3
    variants = Variants(beta_schedule=shape, beta_teacher_start=start)
    check_dadpo(beta_ref=beta_ref, beta_teacher=beta_teacher, mode="cached", variants=variants)
    one, other = variants.betas(beta_ref, beta_teacher, done)
    assert one >= 0
    assert one + other == pytest.approx(beta_ref + beta_teacher)


@given(st.lists(st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=30), st.floats(0.1, 50))
def test_the_scale_is_that_of_the_median(values, target):
    deltas = torch.tensor(values, dtype=torch.float64)
    beta = scaled_beta_teacher(deltas, target)
    assert statistics.median(abs(beta * value) for value in values) == pytest.approx(target)


def test_delta_te_is_the_teachers_margin_above_the_references():
    _, _, rc, rr, tc, tr = columns()
    close(delta_te((rc, rr, tc, tr)), (tc - tr) - (rc - rr))
    n = lengths()
    close(delta_te((rc, rr, tc, tr), n), (tc / n[0] - tr / n[1]) - (rc / n[0] - rr / n[1]))


def data_of(scores, n):
    return SimpleNamespace(frozen={"reference": "r"}, train_scores=lambda: scores, train_lengths=lambda: n)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_target_scale_moves_beta_teacher_and_keeps_the_sum(normalised):
    scores, n = PairScores(*columns()[2:]), lengths()
    variants = Variants(target_scale=0.25, length_normalised=normalised)
    beta_ref, beta_teacher = variants.scaled(5.0, 0.5, data_of(scores, n))
    assert beta_ref + beta_teacher == pytest.approx(5.5)
    margins = beta_teacher * variants.delta_te(scores, n)
    assert statistics.median(margins.abs().tolist()) == pytest.approx(0.25)
    assert variants.scaled(beta_ref, beta_teacher, data_of(scores, n)) == pytest.approx((beta_ref, beta_teacher))


def test_a_scale_beyond_the_sum_of_the_betas_is_refused_with_one_that_is_not():
    scores, n = PairScores(*columns()[2:]), lengths()
    with pytest.raises(WrongInput, match=r"100.0 nats need beta_teacher=.*, and beta_ref \+ beta_teacher is 0.1") as e:
        Variants(target_scale=100.0).scaled(0.05, 0.05, data_of(scores, n))
    most = float(e.value.mend.split()[3].rstrip(","))
    beta_ref, beta_teacher = Variants(target_scale=0.999 * most).scaled(0.05, 0.05, data_of(scores, n))
    assert beta_ref == pytest.approx(0.0, abs=1e-3)
    assert beta_teacher == pytest.approx(0.1, rel=1e-2)


def test_a_scale_that_nothing_tells_is_refused():
    zero = PairScores(*[torch.zeros(4)] * 4)
    with pytest.raises(WrongInput, match=r"the median of \|δ_te\| is 0.0"):
        Variants(target_scale=1.0).scaled(1.0, 1.0, data_of(zero, lengths(4)))
    for data in (None, SimpleNamespace(frozen={})):
        with pytest.raises(WrongInput, match="no scores before the first step"):
            Variants(target_scale=1.0).scaled(1.0, 1.0, data)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"length_normalised": "yes"}, "length_normalised"),
        ({"sft_weight": -0.1}, "sft_weight"),
        ({"sft_weight": math.nan}, "sft_weight"),
        ({"sft_weight": "much"}, "sft_weight"),
        ({"sft_weight": True}, "sft_weight"),
        ({"beta_schedule": "step"}, "beta_schedule"),
        ({"beta_schedule": "linear", "beta_teacher_start": -0.1}, "beta_teacher_start"),
        ({"beta_teacher_start": 0.0}, "beta_teacher_start"),
        ({"target_scale": 0.0}, "target_scale"),
        ({"target_scale": math.inf}, "target_scale"),
    ],
)
def test_variants_that_cannot_be_or_would_have_no_effect(settings, where):
    with pytest.raises(WrongInput) as error:
        Variants(**settings)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"beta_ref": 0.0, "beta_teacher": 0.0}, "sum must be positive"),
        ({"beta_ref": "auto"}, "got 'auto'"),
        ({"mode": "online"}, "unknown mode 'online'"),
        ({"mode": "live", "variants": Variants(target_scale=1.0)}, "live mode knows no scores"),
        ({"variants": Variants(beta_schedule="linear", beta_teacher_start=0.5)}, "0.5 is more than"),
    ],
)
def test_settings_that_do_not_go_together(settings, told):
    good = {"beta_ref": 0.1, "beta_teacher": 0.1, "mode": "cached", "variants": Variants()}
    check_dadpo(**good)
    with pytest.raises(WrongInput, match=told):
        check_dadpo(**{**good, **settings})


@pytest.mark.parametrize(("shape", "done"), [("step", 0.5), ("linear", -0.1), ("linear", 1.1)])
def test_ramps_that_cannot_be(shape, done):
    with pytest.raises(ValueError, match="schedule|share"):
        ramp(shape, 0.0, 1.0, done)
