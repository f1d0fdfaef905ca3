"""Served loads, tiny: capacity, curves, page; resumed; and what must be refused."""

import json

import pytest

import train
from tests.conf.tiny import SERVED

QUIET = ["threads=1", "+trainer.enable_progress_bar=false", *SERVED]
TINY = ["experiment=goodput_quickstart", *QUIET]


def test_curves_page_and_table(composed, tmp_path, capsys):
    metrics = train.run(composed(*TINY, "load_seeds=[0,1]"))
    out = tmp_path / "out"
    assert metrics["tiny/capacity_rps"] > 0
    for scheduler in ("fifo", "prefill_first"):
        for load in (0.5, 1):
            name = f"tiny-{scheduler}/load{load:g}"
            low, mean, high = (metrics[f"{name}/smooth_goodput_tps{end}"] for end in ("_low", "", "_high"))
            assert low <= mean <= high
            assert metrics[f"{name}/requests_failed"] == 0
        assert metrics[f"tiny-{scheduler}/peak_rps"] > 0
    logs = {path.stem for path in (out / "serve" / "logs").glob("*.jsonl")}
    assert len(logs) == 2 * 2 * 2
    content = json.loads((out / "score_load" / "goodput.json").read_text())
    assert {log["name"] for log in content["logs"]} == logs
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 1 + 2
    assert "could not be" not in page
    assert "tiny-fifo/load" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trace_is_replayed_at_the_rates_and_said(composed, tmp_path):
    lines = [f"{0.1 * n},{3 + n % 50},{1 + n % 4}" for n in range(4000)]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    train.run(
        composed(*TINY, f"trace={tmp_path}/trace.csv", "loads=null", "time_scales=[0.2,0.1]", "schedulers=[fifo]")
    )
    curves = json.loads((tmp_path / "out/score_load/curves.json").read_text())["curves"]
    assert [point["time_scale"] for point in curves[0]["points"]] == [0.2, 0.1]
    assert [point["rps"] for point in curves[0]["points"]] == pytest.approx([50, 100], rel=0.1)
    assert "time scale" in (tmp_path / "out/report.html").read_text()


@pytest.mark.slow
def test_a_load_that_was_killed_goes_on_where_it_was(composed, tmp_path):
    first = train.run(composed(*TINY, "stages=[capacity,serve]"))
    stage = (tmp_path / "out" / "serve").resolve()
    (stage / "stage.json").unlink()
    gone, *kept = sorted((stage / "logs").glob("*.jsonl"))
    made = {path: path.stat().st_mtime_ns for path in kept}
    gone.unlink()
    again = train.run(composed(*TINY))
    assert again["tiny/capacity_rps"] == first["tiny/capacity_rps"]
    assert gone.exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == made


@pytest.mark.slow
def test_ones_own_model_is_served(composed, tmp_path, model_folder):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The oldest house"}\n{"prompt": "Good day!"}\n')
    given = [f"served.model={model_folder('llama')}", f"data={tmp_path}/prompts.jsonl", "dtype=float32", "slo=agent"]
    metrics = train.run(composed("experiment=goodput_model", *QUIET, *given, "max_length=64"))
    assert metrics["model-fifo/load1/requests"] > 0


def test_smooth_goodput_within_a_training_stage(composed, tmp_path):
    from tests.conf.tiny import TINY as DISTILLED

    given = ["callbacks@stage.dsft.callbacks=[fit,smooth_goodput]", "stage.dsft.callbacks.goodput.rate_rps=20"]
    given += ["stages=[teacher,teacher_responses,dsft]"]
    metrics = train.run(composed("experiment=dadpo_quickstart", *DISTILLED, *given))
    assert "dsft/val/goodput/smooth_goodput_tps" in metrics
    assert list((tmp_path / "out" / "dsft" / "goodput").glob("val-*.jsonl"))
    assert (tmp_path / "out" / "dsft" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["schedulers=[lifo]"], "unknown scheduler 'lifo'"),
        (["rates=[1.0]"], "2 of loads, rates and time_scales"),
        (["loads=[0.0]"], "loads are"),
        (["loads=null", "time_scales=[1.0]"], "without a trace"),
        (["trace=nowhere.csv"], "check trace="),
        (["stages=[serve]"], "run the stage `capacity`"),
        (["relative_to=big"], "no capacity of big"),
        (["max_new_tokens=0"], "max_new_tokens"),
        (["engine.max_requests=0"], "no such engine"),
        (["alpha=-1"], "alpha"),
        (["duration_s=0"], "duration_s"),
        (["burst_requests=0"], "burst_requests"),
    ],
)
def test_wrong_settings_end_in_one_line(command, tmp_path, wrong, said):
    code, err = command(*TINY, *wrong, f"hydra.run.dir={tmp_path}/out")
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*/stage.json"))


def test_a_wrong_reader_is_refused_before_anything_is_served(command, tmp_path):
    code, err = command(*TINY, "penalty=cubic", f"hydra.run.dir={tmp_path}/out")
    assert code == 2
    assert "penalty" in err
    assert not (tmp_path / "out" / "capacity").exists()
