"""Bursts to capacities, workloads to logs and an index, scored logs to curves."""

import json
from typing import NamedTuple

import pytest

from callbacks.serving.capacity import CapacityCallback
from callbacks.serving.rate_curves import RateCurves, beside_the_quality, curve_metrics, gather_curves
from callbacks.serving.served_logs import ServedLogs
from datamodules.batches import LoadRequest, Workload
from datamodules.latency_logs import open_logs
from datamodules.responses import ResponseLog
from datamodules.wrong_input import WrongInput


class Served(NamedTuple):
    request_id: str
    submit_s: float
    token_s: list
    input_tokens: int = 3
    output_tokens: int = 2
    expected_tokens: int | None = None
    status: str = "ok"
    error: str = ""


class FakeTrainer:
    is_global_zero = True


TRAINER = FakeTrainer()


def workload(name="m-fifo-load1-seed0", arrivals=(0.0, 1.0, 3.0), warmup=1, model="m"):
    requests = [LoadRequest(str(n), at, [1, 2, 3], 2, n >= warmup) for n, at in enumerate(arrivals)]
    return Workload(name, model, "fifo", 1.0, 0.7, 0, None, requests, 4.0)


def test_a_capacity_is_the_median_burst(tmp_path):
    callback = CapacityCallback(tmp_path / "capacity.json")
    for last in (4.0, 1.0, 2.0):
        served = [Served("0", 0.0, [0.5, 0.6]), Served("1", 0.0, [0.7, last])]
        callback.on_predict_batch_end(TRAINER, None, served, workload(), 0)
    callback.on_predict_end(TRAINER, None)
    assert json.loads((tmp_path / "capacity.json").read_text()) == {"m": 1.0}
    assert callback.final_metrics == {"m/capacity_rps": 1.0, "m/capacity_tps": 2.0}


def test_a_burst_that_failed_is_refused(tmp_path):
    callback = CapacityCallback(tmp_path / "capacity.json")
    served = [Served("0", 0.0, [0.5, 0.6]), Served("1", 0.0, [], status="failed", error="no room")]
    with pytest.raises(WrongInput, match="1 of 2 requests of a burst were not served: no room"):
        callback.on_predict_batch_end(TRAINER, None, served, workload(), 0)


def test_a_log_and_a_line_of_the_index_for_each_workload(tmp_path):
    callback = ServedLogs(tmp_path / "logs", tmp_path / "workloads.jsonl")
    served = [Served("2", 3.0, [0.1, 0.4]), Served("1", 1.0, [0.2, 0.3])]
    callback.on_predict_batch_end(TRAINER, None, served, workload(), 0)
    (log,) = open_logs(tmp_path / "logs" / "m-fifo-load1-seed0.jsonl")
    requests = list(log.requests())
    assert [one.request_id for one in requests] == ["1", "2"]
    assert requests[0].token_s.tolist() == [0.2, 0.3]
    line = ResponseLog(tmp_path / "workloads.jsonl").read()["m-fifo-load1-seed0"]
    assert (line["requests"], line["warmup"], line["offered_rps"], line["load"]) == (2, 1, 0.5, 1.0)


ALPHAS, SPEEDS = [1.0, 2.5], [3.0, 5.0]


def scored(worth, idle=0.0):
    """What is scored of a log: at alpha 1 worth, at 2.5 half of it."""
    metrics = {"smooth_goodput_tps": worth / 2, "token_throughput_tps": 9.0, "idle_p99_s": idle, "requests": 4.0}
    grid = [[0.0, worth], [0.0, worth / 2 - idle]]
    return {"metrics": metrics, "readers": {"speeds_tps": SPEEDS, "alphas": ALPHAS, "smooth_goodput_tps": grid}}


def line(model, load, seed, scheduler="fifo"):
    told = {
        "model": model,
        "scheduler": scheduler,
        "load": load,
        "rate_rps": 10 * load,
        "offered_rps": 10 * load + seed,
    }
    return told | {"time_scale": None, "seed": seed}


SERVED = [
    (line("teacher", 1.0, 0), scored(8.0)),
    (line("teacher", 1.0, 1), scored(12.0)),
    (line("teacher", 2.0, 0), scored(14.0, 5.0)),
    (line("teacher", 2.0, 1), scored(10.0, 5.0)),
    (line("small", 1.0, 0), scored(16.0)),
    (line("small", 1.0, 1), scored(36.0)),
]


def test_seeds_make_one_point_and_peaks_depend_on_alpha():
    teacher, small = gather_curves(SERVED, 5.0, 2.5)
    assert [point["name"] for point in teacher["points"]] == ["load1", "load2"]
    first = teacher["points"][0]
    assert first["figures"]["smooth_goodput_tps"] == {"mean": 5.0, "low": 4.0, "high": 6.0}
    assert first["rps"] == 10.5
    assert first["by_alpha"] == {"1": 10.0, "2.5": 5.0}
    assert teacher["peaks"] == {"1": 1, "2.5": 0}  # a heavier penalty, a lower rate
    assert small["peaks"] == {"1": 0, "2.5": 0}


def test_every_number_has_a_name():
    told = dict(curve_metrics(gather_curves(SERVED, 5.0, 2.5)))
    assert told["teacher-fifo/load2/idle_p99_s"] == 5.0
    assert told["teacher-fifo/load1/smooth_goodput_tps"] == told["teacher-fifo/peak_smooth_goodput_tps"] == 5.0
    assert (told["teacher-fifo/load1/smooth_goodput_tps_low"], told["teacher-fifo/load1/smooth_goodput_tps_high"]) == (
        4,
        6,
    )
    assert told["teacher-fifo/peak_rps"] == told["teacher-fifo/peak_rps_alpha_2.5"] == 10.5
    assert told["teacher-fifo/peak_rps_alpha_1"] == 20.5


def test_a_student_is_held_against_its_teacher_seed_by_seed():
    told = beside_the_quality(gather_curves(SERVED, 5.0, 2.5), "teacher")
    assert told == {
        "teacher/peak_smooth_goodput_tps": 5.0,
        "student/small/peak_smooth_goodput_tps": 13.0,
        "student/small/peak_goodput_ratio": 2.5,  # of 8 / 4 and 18 / 6
        "student/small/peak_goodput_ratio_low": 2.0,
        "student/small/peak_goodput_ratio_high": 3.0,
    }
    assert beside_the_quality(gather_curves(SERVED, 5.0, 2.5), None) == {}


def test_no_ratio_to_what_is_worth_nothing():
    served = [(line("teacher", 1.0, 0), scored(-8.0)), (line("small", 1.0, 0), scored(4.0))]
    assert "student/small/peak_goodput_ratio" not in beside_the_quality(gather_curves(served, 5.0, 2.5), "teacher")


def test_curves_are_written_and_unknown_logs_refused(tmp_path):
    logs = [{"name": f"log{n}", **scores} for n, (_, scores) in enumerate(SERVED)]
    content = {"settings": {"reading_speed_tps": 5.0, "alpha": 2.5}, "logs": logs}
    (tmp_path / "goodput.json").write_text(json.dumps(content))
    index = ResponseLog(tmp_path / "index.jsonl")
    index.append({"id": f"log{n}", **told} for n, (told, _) in enumerate(SERVED))
    callback = RateCurves(tmp_path / "goodput.json", index.path, tmp_path / "curves.json", "teacher")
    callback.on_test_end(TRAINER, None)
    assert callback.final_metrics["student/small/peak_goodput_ratio"] == 2.5
    curves = json.loads((tmp_path / "curves.json").read_text())["curves"]
    assert curves == gather_curves(SERVED, 5.0, 2.5)
    index.path.write_text("")
    with pytest.raises(WrongInput, match="no line about the log log0"):
        callback.on_test_end(TRAINER, None)
