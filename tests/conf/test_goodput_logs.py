"""The whole experiment: on small files, on what must be refused, and on the real samples against a naive script."""

import json
import re
from pathlib import Path

import pytest

import train
from callbacks.run.outcome import print_table
from tests.callbacks.goodput import naive_goodput as naive
from tests.datamodules.latency_logs import log_files as written

SAMPLES = Path(train.__file__).resolve().parent.parent / "shared" / "data" / "serving"
real = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples (../shared/data/serving) are not here")
QUIET = ["experiment=goodput_logs", "threads=1", "+trainer.enable_progress_bar=false"]


def overrides(*more):
    return [*QUIET, *more]


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    written.vllm(folder / "first.json")
    written.aiperf(folder / "second.jsonl")
    return folder


def test_every_log_is_in_the_metrics_the_page_and_the_table(composed, logs, tmp_path, capsys):
    metrics = train.run(composed(*overrides(f"data='{logs}/*.json*'")))
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {key.split("/")[0] for key in told} == {"first", "second"}
    chunks = [[0.5, 0.75, 1.25], [0.25, 0.25, 0.75, 0.75], [], [1.5]]
    assert told["first/smooth_goodput_tps"] == pytest.approx(naive.smooth_goodput(chunks, 4.0), abs=1e-9)
    assert told["first/requests_failed"] == 1
    assert told["second/requests_cancelled"] == 1
    assert told["first/reading_speed_tps"] == 5
    assert told["first/alpha"] == 2.5
    assert told["first/penalty_linear_s"] == told["first/origin_commit"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2 + 1 + 2 + 2 + 2
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    table = capsys.readouterr().out
    assert re.search(r"│ first +│", table)
    assert "reading speed 5 tokens/s, α 2.5, penalty linear_s, origin commit" in table
    print_table(metrics)
    assert capsys.readouterr().out == table


def test_unchanged_logs_are_skipped_by_content_and_changed_ones_are_not(composed, logs, tmp_path):
    again = lambda *more: train.run(composed(*overrides(f"data='{logs}/*.json*'", *more)))  # noqa: E731
    first = again()
    stage = tmp_path / "out" / "score_logs"
    made, folder = (stage / "goodput.json").stat().st_mtime_ns, stage.resolve()
    (logs / "first.json").touch()
    assert again() == first
    assert (stage.resolve(), (stage / "goodput.json").stat().st_mtime_ns) == (folder, made)
    assert again("alpha=5")["first/smooth_goodput_tps"] < first["first/smooth_goodput_tps"]
    written.vllm(logs / "first.json", duration=8.0)
    changed = again()
    assert changed["first/smooth_goodput_tps"] == pytest.approx(first["first/smooth_goodput_tps"] / 2)
    assert changed["second/smooth_goodput_tps"] == first["second/smooth_goodput_tps"]
    (logs / "first.json").rename(logs / "other.json")
    assert {key.split("/")[0] for key in again()} == {"other", "second"}


def test_files_of_one_stem_do_not_collide(composed, logs):
    written.vllm(logs / "second.json")
    metrics = train.run(composed(*overrides(f"data='{logs}/second*'")))
    assert {key.split("/")[0] for key in metrics} == {"second.json", "second.jsonl"}


@pytest.mark.parametrize(("slo", "speed"), [("reading", 5), ("fast_reading", 20), ("agent", 30)])
def test_presets_are_readers(composed, logs, slo, speed):
    config = composed(*overrides(f"data={logs}/first.json", f"slo={slo}"))
    assert config.reading_speed_tps == speed
    assert config.tbt_s == pytest.approx(1 / speed, rel=0.02)
    assert composed(*overrides(f"slo={slo}", "reading_speed_tps=7")).reading_speed_tps == 7


def test_a_window_is_given_to_logs_that_have_none(composed, tmp_path):
    etalon = written.etalon(tmp_path / "etalon.json")
    assert train.run(composed(*overrides(f"data={etalon}")))["etalon/smooth_goodput_tps"] != pytest.approx(0)
    metrics = train.run(composed(*overrides(f"data={etalon}", "window_s=10")))
    assert metrics["etalon/token_throughput_tps"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (written.llmperf, "LLMPerf log has no time of each token"),
        (written.lifecycle, "only of the first and the last"),
        (lambda path: path.write_text("{}"), "no tool that is known"),
        (lambda path: written.vllm(path, ttfts=[-1.0, 0.25, 0.0, 1.5]), "request 1"),
        (lambda path: path.unlink(missing_ok=True), "no such file"),
    ],
)
def test_one_refused_file_ends_in_one_line_with_nothing_half_written(command, logs, tmp_path, make, said):
    make(logs / "third.json")
    given = f"data=[{logs}/first.json,{logs}/third.json]"
    code, err = command(*overrides(given, f"hydra.run.dir={tmp_path}/out"))
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*.html")) + list((tmp_path / "out").glob("metrics.json"))
    assert not list((tmp_path / "out").glob("score_logs/*"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("reading_speed_tps=0", "reading_speed"),
        ("alpha=-1", "alpha"),
        ("penalty=cubic", "penalty"),
        ("origin=x", "origin"),
        ("window_s=0", "window_s"),
        ("data='nothing*.json'", "check data="),
        ("data=nothing", "check data="),
    ],
)
def test_wrong_settings_end_in_one_line(command, logs, tmp_path, wrong, said):
    given = [wrong] if wrong.startswith("data") else [f"data={logs}/first.json", wrong]
    code, err = command(*overrides(*given, f"hydra.run.dir={tmp_path}/out"))
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in err


def naive_vllm(path):
    """(token times a request, T), nothing of the project's."""
    run = json.loads(path.read_text())
    requests = []
    for n, ttft, gaps in zip(run["output_lens"], run["ttfts"], run["itls"], strict=True):
        chunks = [ttft] if n or ttft else []
        for gap in gaps:
            chunks.append(chunks[-1] + gap)
        n = n or len(chunks)
        requests.append([chunks[k * len(chunks) // n] for k in range(n)])
    return requests, run["duration"]


@real
def test_real_logs_equal_a_naive_script(composed):
    names = ["vllm_h100x8_llama405b_1000qps", "vllm_h100x8_llama405b_16qps", "vllm_mi300x_llama405b_1000qps_failed"]
    metrics = train.run(composed(*overrides(f"data='{SAMPLES}/vllm_*x*_llama405b_*qps*.json'")))
    assert {key.split("/")[0] for key in metrics} == set(names)
    for name in names:
        requests, window = naive_vllm(SAMPLES / f"{name}.json")
        waits = [naive.idle(times, 5.0) for times in requests if times]
        for key, value in {
            "smooth_goodput_tps": naive.smooth_goodput(requests, window),
            "idle_mean_s": sum(waits) / len(waits),
            "idle_max_s": max(waits),
            "idle_p50_s": sorted(waits)[(len(waits) - 1) // 2] / 2 + sorted(waits)[len(waits) // 2] / 2,
        }.items():
            assert metrics[f"{name}/{key}"] == pytest.approx(value, rel=0, abs=1e-9), (name, key)
        for treatment in ("steady", "held"):
            gained = metrics[f"{name}/{treatment}_smooth_goodput_tps"] - metrics[f"{name}/smooth_goodput_tps"]
            assert gained <= 1e-9
    assert metrics["vllm_mi300x_llama405b_1000qps_failed/requests_failed"] == 983
    sixteen = {key.split("/")[1]: value for key, value in metrics.items() if key.startswith(names[1])}
    assert sixteen["steady_tbt_p99_s"] < sixteen["tbt_p99_s"] / 2
    assert sixteen["held_goodput_ttft_tbt_tps"] > 50 * sixteen["goodput_ttft_tbt_tps"]


@real
@pytest.mark.parametrize("name", ["vllm_lifecycle_rtxpro6000_llama8b.jsonl", "llmperf_anyscale_7b.json"])
def test_real_logs_without_token_times_are_refused(command, name, tmp_path):
    code, err = command(*overrides(f"data={SAMPLES / name}", f"hydra.run.dir={tmp_path}/out"))
    assert code == 2
    assert "without per-token times" in err
