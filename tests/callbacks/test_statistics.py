"""Intervals against closed forms, naive loops and their own promise: coverage."""

import math
from statistics import NormalDist

import pytest
import torch

from callbacks.statistics import (
    bootstrap_interval,
    nested_interval,
    paired_difference,
    preference_rates,
    ratio_of_sums,
)


def _values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_agrees_with_the_normal_approximation_of_a_mean():
    values = 3 + 2 * _values(400)
    interval = bootstrap_interval(values, level=0.9, samples=20_000)
    half = float(NormalDist().inv_cdf(0.95) * values.std(correction=0) / math.sqrt(len(values)))
    assert interval.estimate == pytest.approx(values.mean().item())
    # the Monte Carlo error of a 5 % quantile from 20 000 draws is 0.015 standard errors, a seventh of this tolerance
    assert interval.low == pytest.approx(values.mean().item() - half, abs=0.06 * half)
    assert interval.high == pytest.approx(values.mean().item() + half, abs=0.06 * half)


def test_equals_a_naive_loop_over_the_same_draws():
    values, samples = _values(7, 2), 50
    generator = torch.Generator().manual_seed(3)
    drawn = []
    for chosen in torch.randint(7, (samples, 7), generator=generator).tolist():
        top = sum(values[i, 0].item() for i in chosen)
        drawn.append(top / sum(values[i, 1].exp().item() for i in chosen))
    columns = torch.stack([values[:, 0], values[:, 1].exp()], dim=1)
    interval = bootstrap_interval(columns, ratio_of_sums, samples=samples, seed=3)
    expected = torch.quantile(torch.tensor(drawn, dtype=torch.float64), torch.tensor([0.025, 0.975]).double())
    torch.testing.assert_close(torch.stack(interval[1:]), expected)


def test_columns_share_their_resampled_prompts():
    values = _values(60)
    both = bootstrap_interval(torch.stack([values, -values], dim=1), samples=999)
    torch.testing.assert_close(both.low[0], -both.high[1])
    torch.testing.assert_close(both.low[0], bootstrap_interval(values, samples=999).low)


def test_chunks_in_memory_do_not_change_the_interval(monkeypatch):
    values = _values(50)
    whole = bootstrap_interval(values, samples=301)
    monkeypatch.setattr("callbacks.statistics._CELLS_AT_ONCE", 700)
    assert bootstrap_interval(values, samples=301) == whole


def test_seed_decides_the_draws():
    values = _values(50)
    assert bootstrap_interval(values, samples=200, seed=1) == bootstrap_interval(values, samples=200, seed=1)
    assert bootstrap_interval(values, samples=200, seed=1).low != bootstrap_interval(values, samples=200, seed=2).low


def test_covers_the_truth_as_often_as_it_says():
    trials, level = 200, 0.8
    generator = torch.Generator().manual_seed(11)
    hits = 0
    for trial in range(trials):
        values = torch.rand(80, generator=generator, dtype=torch.float64)  # mean 1/2, not normal
        interval = bootstrap_interval(values, level=level, samples=200, seed=trial)
        hits += bool(interval.low <= 0.5 <= interval.high)
    assert hits / trials == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / trials))


def test_nan_is_not_hidden():
    assert bootstrap_interval(torch.tensor([1.0, float("nan"), 2.0]), samples=50).low.isnan()


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(0, 3), torch.zeros(2, 2, 2), torch.tensor(1.0)])
def test_refuses_shapes_without_prompts(values):
    with pytest.raises(ValueError, match="dimensions"):
        bootstrap_interval(values)


@pytest.mark.parametrize("setting", [{"level": 1.0}, {"level": 0.0}, {"samples": 0}])
def test_refuses_settings_out_of_range(setting):
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(torch.ones(3), **setting)


def test_pairing_takes_out_what_both_share():
    hardness, a, b = 10 * _values(200, seed=1), _values(200, seed=2), _values(200, seed=3)
    paired = paired_difference(hardness + a + 1, hardness + b)
    half = float(NormalDist().inv_cdf(0.975) * (a - b).std(correction=0) / math.sqrt(200))
    assert paired.estimate == pytest.approx((a - b).mean().item() + 1)
    assert (paired.high - paired.low) / 2 == pytest.approx(half, rel=0.06)
    assert paired.low > 0  # while two separate intervals, each 2.8 wide, overlap


def test_pairs_need_one_shape():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        paired_difference(torch.zeros(3), torch.zeros(4))


def test_preference_rates_count_what_is_valid():
    rates = preference_rates(["win"] * 50 + ["tie"] * 20 + ["lose"] * 30 + ["invalid"] * 25, samples=20_000)
    assert rates["invalid_rate"] == pytest.approx(0.2)
    assert [rates[f"{name}_rate"] for name in ("win", "tie", "lose")] == pytest.approx([0.5, 0.2, 0.3])
    assert rates["preference_rate"] == pytest.approx(0.2)
    for name, spread in (("win_rate", 0.25), ("tie_rate", 0.16), ("preference_rate", 0.8 - 0.2**2)):
        half = 1.96 * math.sqrt(spread / 100)
        assert rates[f"{name}_ci_low"] == pytest.approx(rates[name] - half, abs=0.012)
        assert rates[f"{name}_ci_high"] == pytest.approx(rates[name] + half, abs=0.012)


def test_preference_rates_without_a_valid_verdict_are_nan():
    rates = preference_rates(["invalid", "invalid"])
    assert rates["invalid_rate"] == 1
    assert math.isnan(rates["win_rate"])
    assert math.isnan(rates["preference_rate_ci_high"])
    assert rates.keys() == preference_rates(["win"]).keys()


@pytest.mark.parametrize("outcomes", [[], ["win", "draw"]])
def test_preference_rates_refuse_what_they_do_not_know(outcomes):
    with pytest.raises(ValueError, match="win, tie, lose or invalid"):
        preference_rates(outcomes)


@pytest.mark.parametrize("shared_prompts", [True, False])
def test_one_seed_is_the_bootstrap_over_prompts(shared_prompts):
    values = _values(120)
    nested = nested_interval(values[None], shared_prompts=shared_prompts, samples=20_000)
    plain = bootstrap_interval(values, samples=20_000, seed=1)
    torch.testing.assert_close(torch.stack(nested), torch.stack(plain), atol=0.01, rtol=0)


def test_nested_equals_a_naive_loop():
    values, samples = _values(3, 5), 40
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, (samples, 3, 1), generator=generator)
    columns = torch.randint(5, (samples, 3, 5), generator=generator)
    drawn = [
        sum(values[rows[r, s, 0], columns[r, s, n]].item() for s in range(3) for n in range(5)) / 15
        for r in range(samples)
    ]
    interval = nested_interval(values, shared_prompts=False, samples=samples, seed=0)
    expected = torch.quantile(torch.tensor(drawn, dtype=torch.float64), torch.tensor([0.025, 0.975]).double())
    torch.testing.assert_close(torch.stack(interval[1:]), expected)


def test_nested_variance_has_the_terms_of_seeds_and_of_shared_prompts():
    seed_effect, prompt_effect = _values(40, 1, seed=5), _values(1, 50, seed=6)
    shared = nested_interval(seed_effect + prompt_effect, samples=8000, level=0.6827)
    variance = seed_effect.var(correction=0) / 40 + prompt_effect.var(correction=0) / 50
    assert (shared.high - shared.low) / 2 == pytest.approx(variance.sqrt().item(), rel=0.05)
    own = nested_interval(seed_effect + prompt_effect, shared_prompts=False, samples=8000, level=0.6827)
    variance = seed_effect.var(correction=0) / 40 + prompt_effect.var(correction=0) / (40 * 50)
    assert (own.high - own.low) / 2 == pytest.approx(variance.sqrt().item(), rel=0.05)
