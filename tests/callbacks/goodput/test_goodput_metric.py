"""The metrics: equal to the functions, whatever the split, the process and the order."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.goodput import GoodputReport, SmoothGoodput, smooth_goodput
from tests.callbacks.goodput import naive_goodput as naive

few = settings(max_examples=30, deadline=None)


@few
@given(naive.logs(min_size=2), st.sampled_from([5.0, 20.0]), st.sampled_from(["linear_s", "fraction"]), st.data())
def test_class_equals_function_equals_loop(requests, speed, penalty, data):
    metric = SmoothGoodput(reading_speed=speed, penalty=penalty)
    cut = data.draw(st.integers(1, len(requests) - 1))
    for part in (requests[:cut], requests[cut:]):
        metric.update(naive.pad(part), window_s=5.0)
    function = smooth_goodput(naive.pad(requests), window_s=5.0, reading_speed=speed, penalty=penalty)
    assert float(metric.compute()) == pytest.approx(float(function), abs=1e-9)
    assert float(function) == pytest.approx(naive.smooth_goodput(requests, 5.0, speed, penalty=penalty), abs=1e-9)


def test_window_from_submission_times_spans_all_batches():
    metric = SmoothGoodput()
    metric.update(naive.pad([[0.1, 0.2], []]), submit_times=torch.tensor([10.0, 12.0]))
    metric.update(naive.pad([[4.0]]), submit_times=torch.tensor([8.0]))
    worth = 2 + (1 - 2.5 * 3.8)
    assert float(metric.compute()) == pytest.approx(worth / (12.0 - 8.0))  # first submission 8, last delivery 8 + 4


def test_given_windows_are_one_measurement_and_win_over_submission_times():
    metric = SmoothGoodput()
    metric.update(naive.pad([[0.1]]), window_s=10.0)
    metric.update(naive.pad([[0.1]]), submit_times=torch.tensor([3.0]), window_s=9.0)
    assert float(metric.compute()) == pytest.approx(2 / 10)
    other = SmoothGoodput()
    other.update(naive.pad([[0.1]]), window_s=8.0)
    metric.merge_state(other)  # as processes do
    assert float(metric.compute()) == pytest.approx(3 / 10)


def test_a_clock_since_1970_keeps_its_digits():
    metric = SmoothGoodput()
    metric.update(naive.pad([[0.125]]).float(), submit_times=torch.tensor([1.8e9], dtype=torch.float64))
    assert float(metric.compute()) == 1 / 0.125


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ([], "the log is empty"),
        ([{"token_times": naive.pad([[0.1]])}], "the window T is not known"),
        ([{"token_times": naive.pad([[0.0]]), "submit_times": torch.tensor([1.0])}], "the window T is 0"),
        ([{"token_times": naive.pad([[]]), "submit_times": torch.tensor([1.0])}], "the window T is 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_figure_without_requests_and_window(updates, message):
    metric = SmoothGoodput()
    for update in updates:
        metric.update(**update)
    with pytest.raises(ValueError, match=message):
        metric.compute()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"token_times": naive.pad([[0.2, 0.1]])}, "go backwards"),
        ({"token_times": naive.pad([[0.1]]), "window_s": 0.0}, "window_s must be above 0"),
        ({"token_times": naive.pad([[0.1]]), "window_s": math.nan}, "window_s must be above 0"),
        ({"token_times": naive.pad([[0.1]]), "submit_times": torch.zeros(2)}, r"submit_times must be \(1,\)"),
        ({"token_times": naive.pad([[0.1]]), "submit_times": torch.tensor([math.inf])}, "submit_times must be finite"),
    ],
)
@pytest.mark.parametrize("kind", [SmoothGoodput, GoodputReport])
def test_wrong_input_is_refused_and_leaves_the_metric_as_it_was(kind, update, message):
    metric = kind()
    metric.update(naive.pad([[0.1, 0.4]]), window_s=1.0)
    before = {name: copy.deepcopy(value) for name, value in metric.metric_state.items()}
    with pytest.raises(ValueError, match=message):
        metric.update(**update)
    torch.testing.assert_close(metric.metric_state, before, equal_nan=True)


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"reading_speed": -5.0}, {"penalty": "none"}, {"origin": "end"}])
def test_wrong_settings_are_refused_at_once(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SmoothGoodput(**settings)
    with pytest.raises(ValueError, match="must be above 0"):
        GoodputReport(tbt_s=0.0)


def test_missing_tokens_are_charged_on_request_only():
    times, owed = naive.pad([[0.1], []]), torch.tensor([1.0, 10.0])
    plain, strict = SmoothGoodput(), SmoothGoodput(charge_missing_tokens=True)
    for metric in (plain, strict):
        metric.update(times, window_s=1.0, expected_tokens=owed)
    assert float(plain.compute()) == 1.0
    assert float(strict.compute()) == pytest.approx(1.0 - 2.5 * 2.0)
    with pytest.raises(ValueError, match="needs expected_tokens"):
        strict.update(times, window_s=1.0)


@pytest.mark.parametrize("kind", [SmoothGoodput, GoodputReport])
def test_pickle_reset_merge_and_forward(kind):
    times, submits, *_ = naive.example_log()
    whole = kind(penalty=naive.squared_idle)
    whole.update(times, submits)
    copied = pickle.loads(pickle.dumps(whole))
    naive.assert_same(copied.compute(), whole.compute())
    left, right = kind(penalty=naive.squared_idle), kind(penalty=naive.squared_idle)
    left.update(times[:20], submits[:20])
    right.update(times[20:], submits[20:])
    left.merge_state(right)
    naive.assert_same(left.compute(), whole.compute())
    stepped = kind(penalty=naive.squared_idle)
    batch = stepped(times[:20], submits[:20])
    stepped(times[20:], submits[20:])
    naive.assert_same(stepped.compute(), whole.compute())
    right.reset()
    right.update(times[:20], submits[:20])
    naive.assert_same(right.compute(), batch)


def test_float32_times_give_nearly_the_same():
    times, submits, *_ = naive.example_log()
    exact, rounded = SmoothGoodput(), SmoothGoodput()
    exact.update(times, submits)
    rounded.update(times.float(), submits)
    assert float(rounded.compute()) == pytest.approx(float(exact.compute()), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_metrics_move_to_an_accelerator():
    times, submits, failed, spread = naive.example_log()
    here, there = GoodputReport(), GoodputReport().cuda()
    here.update(times, submits, failed=failed, spread=spread)
    there.update(*(x.cuda() for x in (times, submits)), failed=failed.cuda(), spread=spread.cuda())
    naive.assert_same({name: value.cpu() for name, value in there.compute().items()}, here.compute())


def _one_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    times, submits, failed, spread = naive.example_log()
    for name, cut in (("split", 25), ("all_at_first", 60)):
        rows = slice(0, cut) if rank == 0 else slice(cut, None)
        for limit in (10, 1000):
            metric, report = SmoothGoodput(), GoodputReport(exact_limit=limit)
            if rank == 0 or cut < 60:
                metric.update(times[rows], submits[rows])
                report.update(times[rows], submits[rows], failed=failed[rows], spread=spread[rows])
            torch.save((metric.compute(), report.compute()), f"{folder}/{name}.{limit}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one(tmp_path):
    """Also where the second one has served nothing, and on both sides of the limit of exact quantiles."""
    mp.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    times, submits, failed, spread = naive.example_log()
    for limit in (10, 1000):
        metric, report = SmoothGoodput(), GoodputReport(exact_limit=limit)
        metric.update(times, submits)
        report.update(times, submits, failed=failed, spread=spread)
        for name in ("split", "all_at_first"):
            for rank in (0, 1):
                shared_metric, shared_report = torch.load(tmp_path / f"{name}.{limit}.{rank}")
                naive.assert_same(shared_metric, metric.compute())
                naive.assert_same(shared_report, report.compute())
