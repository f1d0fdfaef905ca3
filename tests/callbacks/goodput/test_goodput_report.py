"""The collection around smooth goodput: every figure against NumPy, whatever the split."""

from __future__ import annotations

import math

import numpy as np
import pytest

from callbacks.goodput import GoodputReport
from tests.callbacks.goodput import naive_goodput as naive


def test_outputs_name_their_settings():
    metric = GoodputReport(reading_speed=20.0, alpha=4.0, penalty=naive.squared_idle, origin="first_token", e2e_s=9.0)
    wanted = {"reading_speed_tps": 20.0, "alpha": 4.0, "penalty": "squared_idle", "origin": "first_token", "e2e_s": 9.0}
    assert wanted.items() <= metric.settings.items()
    metric.update(naive.pad([[0.1]]), window_s=1.0)
    result = metric.compute()
    assert float(result["reading_speed_tps"]) == 20.0
    assert float(result["e2e_s"]) == 9.0


def test_report_equals_numpy():
    times, submits, failed, spread = naive.example_log()
    report = GoodputReport(ttft_s=0.5, tbt_s=1.0, tpot_s=0.5, e2e_s=10.0)
    report.update(times, submits, failed=failed, spread=spread)
    result = {name: float(value) for name, value in report.compute().items()}
    requests = [[t for t in row if not math.isnan(t)] for row in times.tolist()]
    window = max(s + r[-1] for s, r in zip(submits.tolist(), requests, strict=True) if r) - float(submits.min())
    tokens = sum(map(len, requests))
    assert result["window_s"] == pytest.approx(window)
    assert result["smooth_goodput_tps"] == pytest.approx(naive.smooth_goodput(requests, window), abs=1e-9)
    assert result["token_throughput_tps"] == pytest.approx(tokens / window)
    assert result["request_throughput_rps"] == pytest.approx((60 - int(failed.sum())) / window)
    assert result["requests_failed"] == int(failed.sum())
    assert result["requests_spread_over_chunks"] == int(spread.sum())
    assert result["requests_without_tokens"] == sum(not r for r in requests)
    assert result["requests_negative_benefit"] == sum(naive.benefit(r, 5.0, 2.5) < 0 for r in requests) > 0
    met = [bool(r) and not f and r[-1] <= 10.0 for r, f in zip(requests, failed.tolist(), strict=True)]
    assert 0 < sum(met) < sum(bool(r) and r[-1] <= 10.0 for r in requests)  # some failed with all tokens in time
    assert result["attainment_e2e"] == pytest.approx(sum(met) / 60)
    assert result["goodput_e2e_rps"] == pytest.approx(sum(met) / window)
    assert result["goodput_e2e_tps"] == pytest.approx(
        sum(len(r) for r, m in zip(requests, met, strict=True) if m) / window
    )
    qoe = [naive.andes_qoe(r, 5.0, 0.5) for r in requests]
    assert result["andes_qoe"] == pytest.approx(np.mean(qoe))
    deadlines = np.array([naive.fluidity(r, 0.5, 1.0) for r in requests]).sum(0)
    assert result["fluidity_index"] == pytest.approx(deadlines[0] / deadlines[1])
    on_time = sum(t <= i / 5 for r in requests for i, t in enumerate(r, start=1))
    assert result["tokens_on_time_share"] == pytest.approx(on_time / tokens)
    gaps = [b - a for r in requests for a, b in zip(r, r[1:], strict=False)]
    idle = [naive.idle(r, 5.0) for r in requests if r]
    for name, values in (("tbt", gaps), ("idle", idle), ("ttft", [r[0] for r in requests if r])):
        assert result[f"{name}_mean_s"] == pytest.approx(np.mean(values))
        assert result[f"{name}_max_s"] == pytest.approx(max(values))
        for label, level in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            assert result[f"{name}_{label}_s"] == pytest.approx(np.quantile(values, level), rel=1e-9)
        assert result[f"{name}_quantile_error"] == 0


def test_report_says_when_quantiles_are_approximate_and_splits_still_add_up():
    times, submits, failed, spread = naive.example_log(200)
    whole, parts = GoodputReport(exact_limit=150), GoodputReport(exact_limit=150)
    whole.update(times, submits, failed=failed, spread=spread)
    for start in range(0, 200, 30):
        rows = slice(start, start + 30)
        parts.update(times[rows], submits[rows], failed=failed[rows], spread=spread[rows])
    naive.assert_same(parts.compute(), whole.compute())
    exact = GoodputReport()
    exact.update(times, submits, failed=failed, spread=spread)
    result, truth = whole.compute(), exact.compute()
    assert float(result["tbt_quantile_error"]) == 0.005
    assert len(whole.kept_tbt) == 0
    assert float(result["tbt_p99_s"]) == pytest.approx(float(truth["tbt_p99_s"]), rel=0.0051)
    assert float(result["tbt_p99_s"]) != float(truth["tbt_p99_s"])
    assert float(result["tbt_max_s"]) == float(truth["tbt_max_s"])
    assert float(result["tbt_mean_s"]) == pytest.approx(float(truth["tbt_mean_s"]))


def test_report_without_a_window_has_everything_but_rates():
    report = GoodputReport()
    report.update(naive.pad([[0.1, 1.4]]))
    result = report.compute()
    rates = {name for name, value in result.items() if value.isnan()}
    assert rates == {name for name in result if name.endswith(("_tps", "_rps")) and "speed" not in name} | {"window_s"}
    assert float(result["idle_max_s"]) == pytest.approx(1.0)
