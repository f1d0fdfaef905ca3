"""Logs scored piece by piece against the naive definitions, and what the gaming audit may and may not find."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.goodput import GoodputReport, smooth_goodput
from callbacks.goodput.deliveries import Deliveries
from callbacks.goodput.gaming import cut_at_miss, held_to_gap, steady_pace
from callbacks.goodput.logs_callback import GoodputLogsCallback
from datamodules.latency_logs import Request, Tally, to_padded
from datamodules.latency_logs.data_module import LogPiece
from datamodules.wrong_input import WrongInput
from tests.callbacks.goodput import naive_goodput as naive

SLO = {"ttft_s": 1.0, "tbt_s": 0.2, "tpot_s": 0.2, "e2e_s": 3.0}


def log_pieces(requests, name="log", size=100, window=4.0):
    """A log of times a request, in pieces of so many requests."""
    rows = [
        Request(str(i), float(i), torch.tensor(times, dtype=torch.float64).numpy(), 5, len(times))
        for i, times in enumerate(requests)
    ]
    return [
        LogPiece(
            name, "a.json", "vllm", window, to_padded(part), [r.request_id for r in part], Tally(requests=len(rows))
        )
        for start in range(0, len(rows), size)
        if (part := rows[start : start + size])
    ]


def scored(tmp_path, pieces, **changes):
    callback = GoodputLogsCallback(tmp_path, **SLO, **changes)
    callback.on_test_start(None, None)
    for number, piece in enumerate(pieces):
        callback.on_test_batch_end(None, None, None, piece, number)
    callback.on_test_end(None, None)
    return callback.final_metrics, json.loads((tmp_path / "goodput.json").read_text())


@settings(deadline=None, max_examples=25)
@given(requests=naive.logs(), size=st.integers(1, 5), speed=st.floats(1, 40), alpha=st.floats(0.1, 20))
def test_a_log_in_pieces_equals_the_definition(tmp_path_factory, requests, size, speed, alpha):
    folder = tmp_path_factory.mktemp("scored")
    metrics, content = scored(folder, log_pieces(requests, size=size), reading_speed=speed, alpha=alpha)
    expected = naive.smooth_goodput(requests, 4.0, speed, alpha)
    assert metrics["log/smooth_goodput_tps"] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    readers = content["logs"][0]["readers"]
    for row, other_alpha in zip(readers["smooth_goodput_tps"], readers["alphas"], strict=True):
        for value, other_speed in zip(row, readers["speeds_tps"], strict=True):
            expected = naive.smooth_goodput(requests, 4.0, other_speed, other_alpha)
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert speed in readers["speeds_tps"]
    assert alpha in readers["alphas"]


@settings(deadline=None, max_examples=40)
@given(requests=naive.logs(), size=st.integers(1, 3))
def test_worst_median_and_best_do_not_depend_on_the_pieces(requests, size):
    whole, parts = Deliveries(5.0), Deliveries(5.0)
    times = naive.pad(requests)
    idle = torch.tensor([naive.idle(one, 5.0) if one else math.nan for one in requests], dtype=torch.float64)
    ids = [str(i) for i in range(len(requests))]
    whole.update(times, idle, ids)
    for start in range(0, len(requests), size):
        parts.update(times[start : start + size], idle[start : start + size], ids[start : start + size])
    assert whole.found() == parts.found()
    waits = sorted(wait for wait in idle.tolist() if wait == wait)
    if waits:
        found = whole.found()
        assert [found[name]["idle_s"] for name in ("worst", "median", "best")] == [
            waits[-1], waits[(len(waits) - 1) // 2], waits[0]
        ]  # fmt: skip


def test_a_long_log_is_sampled_for_its_median_and_says_so():
    deliveries = Deliveries(5.0, size=101)
    for start in range(0, 2000, 250):
        idle = torch.arange(start, start + 250, dtype=torch.float64) * 37 % 2000
        deliveries.update(idle[:, None], idle, [str(start + i) for i in range(250)])
    found = deliveries.found()
    assert found["sampled"]
    assert found["requests"] == 2000
    assert (found["worst"]["idle_s"], found["best"]["idle_s"]) == (1999, 0)
    assert found["median"]["idle_s"] == pytest.approx(1000, abs=100)


@settings(deadline=None)
@given(requests=naive.logs(), gap=st.floats(0.01, 3), speed=st.floats(1, 40))
def test_holding_back_delivers_nothing_earlier_and_never_raises_smooth_goodput(requests, gap, speed):
    times = naive.pad(requests)
    before = smooth_goodput(times, window_s=1.0, reading_speed=speed)
    for held in (steady_pace(times), held_to_gap(times, gap_s=gap)):
        assert torch.equal(held.isnan(), times.isnan())
        assert not (held < times).any()
        assert not (held.diff(dim=1) < 0).any()
        assert smooth_goodput(held, window_s=1.0, reading_speed=speed) <= before + 1e-9


@settings(deadline=None)
@given(requests=naive.logs(min_tokens=2))
def test_a_steady_pace_makes_the_largest_gap_the_mean_gap(requests):
    times = naive.pad(requests)
    held = steady_pace(times)
    for row, one in enumerate(requests):
        gaps = held[row, : len(one)].diff()
        assert gaps == pytest.approx((one[-1] - one[0]) / (len(one) - 1), abs=1e-9)
        waited = held[row, : len(one)] - times[row, : len(one)]
        assert waited.min() == pytest.approx(0, abs=1e-9)  # begun no later than it must


def test_a_buffer_hides_a_stall_from_tbt_and_readers_get_nothing(tmp_path):
    times = [0.1 * i for i in range(1, 21)] + [2.0 + 0.9 + 0.1 * i for i in range(1, 11)]  # a stall of 1 s
    metrics, _ = scored(tmp_path, log_pieces([times] * 3))
    assert metrics["log/goodput_ttft_tbt_tps"] == 0
    assert metrics["log/held_goodput_ttft_tbt_tps"] == metrics["log/token_throughput_tps"] == 90 / 4
    assert metrics["log/steady_tbt_max_s"] < 0.14 < 0.9 < metrics["log/tbt_max_s"]
    assert metrics["log/steady_ttft_p99_s"] > metrics["log/ttft_p99_s"]
    assert metrics["log/held_smooth_goodput_tps"] == pytest.approx(metrics["log/smooth_goodput_tps"], abs=1e-9)
    assert metrics["log/steady_smooth_goodput_tps"] <= metrics["log/smooth_goodput_tps"]


@pytest.mark.parametrize(("objective", "kept"), [("ttft_tbt", 2), ("ttft_tpot", 3), ("e2e", 4), ("reading", 2)])
def test_a_request_is_cut_at_its_first_late_token(objective, kept):
    times = torch.tensor([[0.1, 0.3, 0.85, 2.9, 3.1, math.nan]], dtype=torch.float64)
    cut = cut_at_miss(times, objective, **SLO, reading_speed=5.0)
    assert torch.equal(cut[:, :kept], times[:, :kept])
    assert cut[:, kept:].isnan().all()


def test_cutting_costs_classic_goodput_nothing_and_the_strict_count_charges_it(tmp_path):
    good, late = [0.1 * i for i in range(1, 11)], [0.1, 0.2, *(1.0 + 0.1 * i for i in range(1, 9))]
    metrics, _ = scored(tmp_path, log_pieces([good, late]))
    assert metrics["log/cut_goodput_ttft_tbt_tps"] == metrics["log/goodput_ttft_tbt_tps"] == 10 / 4
    assert metrics["log/cut_freed_ttft_tbt"] == pytest.approx(8 / 20)
    assert metrics["log/cut_smooth_goodput_tps"] == pytest.approx(12 / 4)
    strict = (12 - 2.5 * 8 / 5) / 4  # eight tokens that did not come, at 1/5 s each
    assert metrics["log/cut_smooth_goodput_strict_tps"] == pytest.approx(strict)


def test_every_output_names_the_settings(tmp_path):
    metrics, content = scored(tmp_path, log_pieces([[0.5]]), penalty="fraction", origin="first_token", alpha=0.5)
    assert metrics["log/reading_speed_tps"] == 5.0
    assert metrics["log/alpha"] == 0.5
    assert metrics["log/penalty_fraction"] == metrics["log/origin_first_token"] == 1.0
    named = {key: content["settings"][key] for key in ("reading_speed_tps", "alpha", "penalty", "origin")}
    assert named == {"reading_speed_tps": 5.0, "alpha": 0.5, "penalty": "fraction", "origin": "first_token"}


def test_a_log_of_nothing_but_failures_is_scored(tmp_path):
    metrics, content = scored(tmp_path, log_pieces([[], []]))
    assert metrics["log/requests_without_tokens"] == 2
    assert metrics["log/smooth_goodput_tps"] == 0
    assert "worst" not in content["logs"][0]["deliveries"]


def test_without_a_window_rates_are_unknown_and_the_rest_is_there(tmp_path):
    (piece,) = log_pieces([[0.5, 0.75]], window=None)
    piece = piece._replace(requests=piece.requests._replace(submit_times=None))
    metrics, content = scored(tmp_path, [piece])
    assert math.isnan(metrics["log/smooth_goodput_tps"])
    assert metrics["log/idle_max_s"] == pytest.approx(0.35)
    assert content["logs"][0]["metrics"]["smooth_goodput_tps"] is None


def test_a_window_of_nothing_is_one_line_and_nothing_is_written(tmp_path):
    with pytest.raises(WrongInput, match=r"the window T is 0.*a\.json.*window_s="):
        scored(tmp_path, [*log_pieces([[0.5]], "good"), *log_pieces([[]], "bad", window=None)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"reading_speed": 0}, {"alpha": -1}, {"penalty": "cubic"}, {"origin": "x"}, {"z": 1}]
)
def test_wrong_settings_are_one_line(tmp_path, wrong):
    with pytest.raises(WrongInput):
        GoodputLogsCallback(tmp_path, **wrong)


def test_what_is_kept_of_a_piece_does_not_keep_the_piece():
    report = GoodputReport()
    times = torch.arange(1, 1001, dtype=torch.float64).reshape(1, -1).expand(50, -1).contiguous()
    report.update(times, window_s=1.0)
    for name in ("ttft", "tpot", "e2e", "idle"):
        (kept,) = getattr(report, f"kept_{name}")
        assert kept.untyped_storage().nbytes() == 50 * 8
