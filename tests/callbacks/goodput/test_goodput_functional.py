"""The facts of smooth goodput (arXiv 2410.14257) as properties, and the functions against plain Python."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.goodput import collection, functional, metric, timeline
from callbacks.goodput.companions import latencies
from callbacks.goodput.functional import PENALTIES, benefit, score_requests, smooth_goodput, user_idle_latency
from callbacks.goodput.slo import goodput, meets_reading_speed
from tests.callbacks.goodput import naive_goodput as naive

speeds = st.sampled_from([0.5, 4.0, 5.0, 20.0, 30.0])
alphas = st.sampled_from([0.1, 1.0, 2.5, 40.0])
penalties = st.sampled_from(PENALTIES)
few = settings(max_examples=60, deadline=None)


@few
@given(naive.logs(), speeds, alphas, penalties, st.sampled_from(["commit", "first_token"]))
def test_equals_a_plain_loop(requests, speed, alpha, penalty, origin):
    times = naive.pad(requests)
    idle = user_idle_latency(times, reading_speed=speed, origin=origin)
    expected = [naive.idle(r, speed, origin) for r in requests]
    assert [math.isnan(x) for x in idle.tolist()] == [x is None for x in expected]
    torch.testing.assert_close(
        idle.nan_to_num(), torch.tensor([x or 0.0 for x in expected], dtype=torch.float64), rtol=0, atol=1e-9
    )
    result = smooth_goodput(times, window_s=7.0, reading_speed=speed, alpha=alpha, penalty=penalty, origin=origin)
    assert float(result) == pytest.approx(naive.smooth_goodput(requests, 7.0, speed, alpha, penalty, origin), abs=1e-9)


@few
@given(naive.logs(naive.grid_gaps), st.sampled_from([0.5, 4.0, 16.0]))
def test_idle_latency_is_what_a_player_waits(requests, speed):
    """Exact on binary fractions: i/speed, not (i-1)/speed, is the deadline that makes the two equal."""
    idle = user_idle_latency(naive.pad(requests), reading_speed=speed).nan_to_num().tolist()
    assert idle == [naive.player(times, speed) for times in requests]


@few
@given(naive.logs(min_tokens=1), speeds, penalties, st.data())
def test_delay_never_raises_and_earlier_never_lowers(requests, speed, penalty, data):
    row = data.draw(st.integers(0, len(requests) - 1))
    token = data.draw(st.integers(0, len(requests[row]) - 1))
    delay = data.draw(st.floats(0, 20))
    later = [list(times) for times in requests]
    # a token held back holds back those behind it
    held = later[row][token] + delay
    later[row] = [t if i < token else max(t, held) for i, t in enumerate(later[row])]
    before, after = (
        float(smooth_goodput(naive.pad(r), window_s=1.0, reading_speed=speed, penalty=penalty))
        for r in (requests, later)
    )
    assert after <= before + 1e-9  # read backwards: from `later` to `requests` is the earlier delivery


def test_counting_from_the_first_token_lets_delay_pay():
    """Why submission is the default origin: with the other one, holding the first token back hides the wait."""
    times = torch.tensor([[0.2, 3.0, 3.1]], dtype=torch.float64)
    held = torch.tensor([[2.9, 3.0, 3.1]], dtype=torch.float64)
    before, after = (float(smooth_goodput(t, window_s=1.0, origin="first_token")) for t in (times, held))
    assert after > before
    before, after = (float(smooth_goodput(t, window_s=1.0, origin="commit")) for t in (times, held))
    assert after <= before


def test_tail_tbt_can_be_improved_by_delaying():
    """Hold early tokens back and the longest gap shrinks; the reader gains nothing, smooth goodput neither."""
    times = torch.tensor([[0.1, 0.2, 0.3, 0.4, 2.4]], dtype=torch.float64)
    held = torch.tensor([[0.1, 0.6, 1.2, 1.8, 2.4]], dtype=torch.float64)
    assert latencies(held).tbt_s.max() < 0.35 * latencies(times).tbt_s.max()
    before, after = (float(smooth_goodput(t, window_s=3.0, reading_speed=4.0)) for t in (times, held))
    assert after <= before


@few
@given(naive.logs(min_size=2, min_tokens=1), speeds, alphas, st.data())
def test_abandoning_gains_no_more_than_the_idle_time_it_saves(requests, speed, alpha, data):
    """Drop request 0 after k tokens and deliver the others' tokens earlier with what that frees."""
    keep = data.draw(st.integers(0, len(requests[0]) - 1))
    factor = data.draw(st.floats(0, 1))
    others = [[t * factor for t in times] for times in requests[1:]]
    before = score_requests(naive.pad(requests), reading_speed=speed, alpha=alpha)
    after = score_requests(naive.pad([requests[0][:keep], *others]), reading_speed=speed, alpha=alpha)
    saved = before.idle_s.nan_to_num() - after.idle_s.nan_to_num()
    gain = float(after.benefit.sum() - before.benefit.sum())
    assert gain <= alpha * float(saved.sum()) + 1e-6
    if keep and saved[0] == 0:  # its worst wait had come before it was dropped: only what others save can count
        assert gain <= alpha * float(saved[1:].sum()) + 1e-6


def test_abandoning_raises_classic_goodput():
    late = [3.0, 3.2, 3.4, 3.6]  # has missed with its first token
    queued = [0.1, 0.9, 1.5]  # waits behind it
    freed = [0.1, 0.3, 0.5]
    both, dropped = naive.pad([late, queued]), naive.pad([late[:1], freed])
    met = [meets_reading_speed(t, reading_speed=5.0) for t in (both, dropped)]
    tokens = [score_requests(t).n_tokens for t in (both, dropped)]
    classic = [float(goodput(m, n, window_s=4.0).tokens_per_s) for m, n in zip(met, tokens, strict=True)]
    assert classic == [0.0, 0.75]
    smooth = [float(smooth_goodput(t, window_s=4.0)) for t in (both, dropped)]
    saved = sum(naive.idle(a, 5.0) - naive.idle(b, 5.0) for a, b in [(late, late[:1]), (queued, freed)])
    assert smooth[1] - smooth[0] <= 2.5 * saved / 4.0


def test_worked_examples():
    ten_then_silence = [0.1 * i for i in range(1, 11)] + [2.0 + 0.1 * i for i in range(1, 11)]
    two_then_silence = [0.1, 0.2] + [1.2 + 0.05 * i for i in range(11)]
    idle = user_idle_latency(naive.pad([ten_then_silence, two_then_silence]), reading_speed=4.0)
    assert idle[0] == 0
    assert float(idle[1]) == pytest.approx(1.2 - 3 / 4)
    assert latencies(naive.pad([two_then_silence])).tpot_s[0] < 1 / 4  # which looks fine


@few
@given(naive.logs(min_size=2), st.data())
def test_splits_add_up(requests, data):
    cut = data.draw(st.integers(0, len(requests)))
    whole, left, right = (
        float(smooth_goodput(naive.pad(part), window_s=3.0)) for part in (requests, requests[:cut], requests[cut:])
    )
    assert left + right == pytest.approx(whole, abs=1e-9)


def test_benefit_is_not_clamped_and_failures_stay():
    times = naive.pad([[], [60.0], [0.1]])
    scores = score_requests(times, alpha=2.5, reading_speed=5.0)
    assert scores.n_tokens.tolist() == [0, 1, 1]
    assert math.isnan(scores.idle_s[0])
    assert scores.benefit.tolist() == pytest.approx([0.0, 1 - 2.5 * 59.8, 1.0])


def test_stricter_variant_charges_tokens_that_never_came():
    times = naive.pad([[], [0.1, 0.2], [0.1, 0.2], [0.1, 5.0]])
    expected = torch.tensor([10.0, 12.0, math.nan, 2.0])
    idle = user_idle_latency(times, reading_speed=5.0, expected_tokens=expected)
    assert idle.tolist() == pytest.approx([2.0, 2.0, 0.0, 4.6])
    assert float(smooth_goodput(times, window_s=1.0, expected_tokens=expected)) < float(
        smooth_goodput(times, window_s=1.0)
    )


def test_penalty_functions():
    times = naive.pad([[1.2], [0.1]])
    scores = score_requests(times, alpha=2.0, penalty=lambda idle_s, tokens: tokens * idle_s**2)
    assert scores.benefit.tolist() == pytest.approx([1 - 2.0, 1.0])
    with pytest.raises(ValueError, match="penalty function's result must be"):
        score_requests(times, penalty=lambda idle_s, tokens: idle_s.sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_dtype_and_layout(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    times = torch.rand(50, 40, generator=generator, dtype=torch.float64).cumsum(1)
    expected = [naive.idle(row, 5.0) for row in times.tolist()]
    idle = user_idle_latency(times.T.contiguous().T.to(dtype))
    assert idle.dtype == dtype
    torch.testing.assert_close(idle.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_block_size_does_not_matter(monkeypatch):
    requests = [[0.1 * i * (r + 1) for i in range(1, r % 7 + 1)] for r in range(40)]
    whole = score_requests(naive.pad(requests))
    monkeypatch.setattr(timeline, "_CPU_CELLS", 17)
    for a, b in zip(whole, score_requests(naive.pad(requests)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_delivered(shape):
    times = torch.full(shape, math.nan)
    assert float(smooth_goodput(times, window_s=1.0)) == 0.0
    assert user_idle_latency(times).shape == (shape[0],)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_accelerator():
    times = naive.pad([[0.1, 0.5], [], [7.0]])
    on_device = smooth_goodput(times.cuda(), window_s=2.0)
    assert on_device.is_cuda
    assert float(on_device) == pytest.approx(float(smooth_goodput(times, window_s=2.0)), abs=1e-12)


def test_benefit_takes_missing_idle_as_none():
    assert benefit(torch.tensor([0]), torch.tensor([math.nan])).tolist() == [0.0]


@pytest.mark.parametrize("module", [functional, metric, collection])
def test_examples_in_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
