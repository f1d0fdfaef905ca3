"""Real logs against a naive script that reads them on its own. Skipped where the samples are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callbacks.goodput import GoodputReport, SmoothGoodput, user_idle_latency
from datamodules.latency_logs import open_logs, to_padded
from datamodules.wrong_input import WrongInput

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "serving"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples (../shared/data/serving) are not here")


def naive_idle(times, speed=5.0):
    return max(0.0, *(t - i / speed for i, t in enumerate(times, start=1)))


def naive_vllm(path):
    """(token times a request, T), nothing of the project's."""
    run = json.loads(path.read_text())
    requests = []
    for n, ttft, gaps in zip(run["output_lens"], run["ttfts"], run["itls"], strict=True):
        chunks = [ttft] if n or ttft else []
        for gap in gaps:
            chunks.append(chunks[-1] + gap)
        n = n or len(chunks)  # a failed request: a token a chunk
        requests.append([chunks[k * len(chunks) // n] for k in range(n)])
    return requests, run["duration"]


def naive_aiperf(path):
    requests, starts = [], []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        metrics = row["metrics"]
        chunks = [metrics["time_to_first_token"]["value"] / 1000]
        for gap in metrics.get("inter_chunk_latency", {"value": []})["value"]:
            chunks.append(chunks[-1] + gap / 1000)
        n = metrics["output_sequence_length"]["value"]
        requests.append([chunks[k * len(chunks) // n] for k in range(n)])
        starts.append(row["metadata"]["request_start_ns"])
    first = min(starts)
    return requests, max((start - first) / 1e9 + times[-1] for start, times in zip(starts, requests, strict=True))


@pytest.mark.parametrize(
    ("name", "naive"),
    [
        ("vllm_h100x8_llama405b_16qps.json", naive_vllm),
        ("vllm_h100x8_llama405b_1000qps.json", naive_vllm),
        ("vllm_mi300x_llama405b_1000qps_failed.json", naive_vllm),
        ("aiperf_profile_export.jsonl", naive_aiperf),
    ],
)
def test_smooth_goodput_and_idle_latency_equal_a_naive_script(name, naive):
    requests, window = naive(SAMPLES / name)
    metric = SmoothGoodput()
    idle = []
    (log,) = open_logs(SAMPLES / name)
    for piece in log.pieces(max_cells=50_000):
        batch = to_padded(piece)
        metric.update(batch.token_times, batch.submit_times, log.window_s)
        idle += user_idle_latency(batch.token_times).tolist()
    expected = [naive_idle(times) for times in requests if times]
    assert [x for x in idle if x == x] == pytest.approx(expected, rel=0, abs=1e-9)
    worth = sum(len(times) - 2.5 * naive_idle(times) for times in requests if times)
    assert float(metric.compute()) == pytest.approx(worth / window, rel=0, abs=1e-9)


def test_the_failed_run_reports_its_failures():
    (log,) = open_logs(SAMPLES / "vllm_mi300x_llama405b_1000qps_failed.json")
    report = GoodputReport()
    for piece in log.pieces():
        report.update(**to_padded(piece)._asdict(), window_s=log.window_s)
    assert log.tally.failed == 983
    assert log.tally.empty == 17
    assert float(report.compute()["requests_failed"]) == 983


@pytest.mark.parametrize("name", ["vllm_lifecycle_rtxpro6000_llama8b.jsonl", "llmperf_anyscale_7b.json"])
def test_samples_without_token_times_are_refused(name):
    with pytest.raises(WrongInput, match="cannot exist"):
        list(open_logs(SAMPLES / name))


@pytest.mark.parametrize("name", ["vllm_h100x8_llama405b_16qps.json", "aiperf_profile_export.jsonl"])
def test_a_log_is_known_by_its_content(name, tmp_path):
    (log,) = open_logs(SAMPLES / name)
    (tmp_path / "unnamed").symlink_to(SAMPLES / name)
    (other,) = open_logs(tmp_path / "unnamed")
    assert other.tool == log.tool == name.split("_")[0]
