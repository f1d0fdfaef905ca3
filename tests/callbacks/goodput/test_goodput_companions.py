"""Objectives (Equations 1 to 7 of arXiv 2410.14257), companions and quantiles against plain Python and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.goodput import companions, sketch, slo
from callbacks.goodput.functional import user_idle_latency
from tests.callbacks.goodput import naive_goodput as naive

few = settings(max_examples=60, deadline=None)


@few
@given(naive.logs(naive.grid_gaps), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([0.25, 0.5]))
def test_objectives_equal_plain_loops(requests, ttft, gap):
    times = naive.pad(requests)
    expected_tbt = [
        bool(r) and r[0] <= ttft and all(b <= a + gap for a, b in zip(r, r[1:], strict=False)) for r in requests
    ]
    expected_tpot = [bool(r) and r[0] <= ttft and r[-1] <= r[0] + (len(r) - 1) * gap for r in requests]
    assert slo.meets_ttft_tbt(times, ttft_s=ttft, tbt_s=gap).tolist() == expected_tbt
    assert slo.meets_ttft_tpot(times, ttft_s=ttft, tpot_s=gap).tolist() == expected_tpot
    assert slo.meets_e2e(times, e2e_s=ttft).tolist() == [bool(r) and r[-1] <= ttft for r in requests]
    reading = slo.meets_reading_speed(times, reading_speed=4.0).tolist()
    assert reading == [bool(r) and all(t <= i / 4 for i, t in enumerate(r, start=1)) for r in requests]
    on_time = companions.tokens_on_time(times, reading_speed=4.0).tolist()
    assert on_time == [sum(t <= i / 4 for i, t in enumerate(r, start=1)) for r in requests]


@few
@given(naive.logs(min_tokens=1), st.sampled_from(["commit", "first_token"]))
def test_the_papers_objective_is_met_iff_nobody_waits(requests, origin):
    times = naive.pad(requests)
    met = slo.meets_reading_speed(times, origin=origin)
    idle = user_idle_latency(times, origin=origin)
    clear = (idle == 0) | (idle > 1e-12)  # t - t_1 - d and t - (t_1 + d) may round apart
    assert torch.equal(met[clear], (idle == 0)[clear])


def test_a_request_without_tokens_meets_nothing():
    times = naive.pad([[], [0.01]])
    for met in (
        slo.meets_ttft_tbt(times, ttft_s=1, tbt_s=1),
        slo.meets_ttft_tpot(times, ttft_s=1, tpot_s=1),
        slo.meets_e2e(times, e2e_s=1),
        slo.meets_reading_speed(times),
        slo.meets_deadlines(times, torch.ones(1)),
    ):
        assert met.tolist() == [False, True]
    empty = torch.zeros(2, 0)
    assert not slo.meets_ttft_tpot(empty, ttft_s=1, tpot_s=1).any()
    assert not slo.meets_ttft_tbt(empty, ttft_s=1, tbt_s=1).any()


def test_goodput_and_attainment():
    met, tokens = torch.tensor([True, False, True]), torch.tensor([3, 100, 5])
    assert [float(x) for x in slo.goodput(met, tokens, window_s=4.0)] == [2.0, 0.5]
    assert float(slo.slo_attainment(met)) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="window_s must be above 0"):
        slo.goodput(met, tokens, window_s=0.0)


@few
@given(naive.logs())
def test_latencies(requests):
    times = naive.pad(requests)
    result = companions.latencies(times)
    gaps = [b - a for r in requests for a, b in zip(r, r[1:], strict=False)]
    np.testing.assert_allclose(result.tbt_s.numpy(), gaps, atol=1e-12)
    for value, expected in (
        (result.ttft_s, [r[0] if r else math.nan for r in requests]),
        (result.e2e_s, [r[-1] if r else math.nan for r in requests]),
        (result.tpot_s, [(r[-1] - r[0]) / (len(r) - 1) if len(r) > 1 else math.nan for r in requests]),
    ):
        np.testing.assert_allclose(value.numpy(), expected, atol=1e-12)


@few
@given(naive.logs(), st.sampled_from([1.0, 5.0]), st.sampled_from([0.5, 2.0]))
def test_andes_qoe(requests, speed, ttft):
    result = companions.andes_qoe(naive.pad(requests), reading_speed=speed, ttft_s=ttft)
    expected = [naive.andes_qoe(r, speed, ttft) for r in requests]
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


def test_andes_qoe_of_an_ideal_delivery_is_one_and_of_none_zero():
    ideal = 1.0 + torch.arange(10, dtype=torch.float64)[None] / 5
    assert float(companions.andes_qoe(ideal * 0.9, reading_speed=5.0, ttft_s=1.0)) == 1.0
    assert float(companions.andes_qoe(ideal + 1e6, reading_speed=5.0, ttft_s=1.0)) < 1e-5
    assert companions.andes_qoe(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


@few
@given(naive.logs(naive.grid_gaps), st.booleans())
def test_fluidity(requests, periods):
    times = naive.pad(requests)
    count = "periods" if periods else "tokens"
    result = companions.fluidity_deadlines(times, first_s=1.0, following_s=0.25, count=count)
    assert list(zip(*(x.tolist() for x in result), strict=True)) == [
        naive.fluidity(r, 1.0, 0.25, periods) for r in requests
    ]


def test_fluidity_carries_slack_and_resets_after_a_miss():
    # early by 0.5, so a gap of 0.7 is met; then a stall of 2.0 is missed once, and the schedule starts anew from it
    times = torch.tensor([[0.5, 1.2, 3.2, 3.4]], dtype=torch.float64)
    assert float(companions.fluidity_index(times, first_s=1.0, following_s=0.25)) == 0.75
    assert float(companions.fluidity_index(times, first_s=1.0, following_s=0.25, count="periods")) < 0.35
    assert companions.fluidity_index(torch.tensor([[math.nan]]), first_s=1.0, following_s=0.25).isnan()
    with pytest.raises(ValueError, match="count must be"):
        companions.fluidity_deadlines(times, first_s=1.0, following_s=0.25, count="calls")


@few
@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_exact_quantiles_are_numpys(values):
    levels = torch.tensor([0.0, 0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    result = sketch.exact_quantiles(torch.tensor(values, dtype=torch.float64), levels)
    np.testing.assert_allclose(result.numpy(), np.quantile(values, levels.numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_sketched_quantiles_keep_their_promise(scale):
    generator = torch.Generator().manual_seed(1)
    values = torch.empty(20_000, dtype=torch.float64).log_normal_(0, 2, generator=generator) * scale
    values[:2000] = 0.0
    levels = torch.tensor([0.05, 0.5, 0.9, 0.99], dtype=torch.float64)
    exact = sketch.exact_quantiles(values, levels)
    parts = sketch.histogram(values[:7000]) + sketch.histogram(values[7000:])
    assert torch.equal(parts, sketch.histogram(values))
    result = sketch.histogram_quantiles(parts, levels)
    assert result[0] == exact[0] == 0
    error = ((result[1:] - exact[1:]) / exact[1:]).abs()
    assert error.max() <= sketch.RELATIVE_ERROR * 1.000001
    assert error.max() > 0  # it is a sketch: were it exact, this test would prove nothing


def test_quantiles_of_nothing():
    levels = torch.tensor([0.5], dtype=torch.float64)
    assert sketch.exact_quantiles(torch.zeros(0), levels).isnan().all()
    assert sketch.histogram_quantiles(torch.zeros(sketch.N_BINS, dtype=torch.int64), levels).isnan().all()
